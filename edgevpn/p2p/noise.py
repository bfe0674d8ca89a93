"""The Noise security transport: py-libp2p's XX handshake, and a transport phase of our own.

Noise Protocol Framework revision 34, section 3 (messages of at most 65535 bytes), in the framing of the libp2p noise
spec: each message is preceded by its length, 2 bytes big-endian.

py-libp2p reads each frame with two receives and sends each one on its own. Here the reader takes whatever the socket
has and opens every whole frame in it; the writer seals any number of bytes as frames that leave in one send.
`FrameOpener` and `FrameSealer` are pure; `NoiseSession` puts them on a connection.

Whatever a peer does wrong in the handshake or afterwards ends as one exception that closes that connection alone.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.noise.transport import Transport
from libp2p.security.secure_session import SecureSession

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.bandwidth import CONNECTIONS
from edgevpn.p2p.tcp import TcpStream

TAG = 16
MAX_PLAINTEXT = 65535 - TAG
_RECEIVE = 256 * 1024
_LENGTH = struct.Struct(">H")
_NONCE = struct.Struct("<4xQ")  # 32 zero bits, then the counter in little-endian (Noise, section 12.3)


class FrameOpener:
    """Opens a byte stream of sealed frames; frames may come in any pieces."""

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._decrypt = ChaCha20Poly1305(key).decrypt
        self._nonce = nonce
        self._pending = bytearray()

    def feed_untrusted(self, data: bytes) -> bytes:
        """The plaintext of all frames that `data` completes (b"" if none); UntrustedDataError on a forged one."""
        pending = self._pending
        pending += data
        opened: list[bytes] = []
        position, end = 0, len(pending)
        with memoryview(pending) as view:
            while end - position >= 2:
                stop = position + 2 + ((pending[position] << 8) | pending[position + 1])
                if stop > end:
                    break
                try:
                    opened.append(self._decrypt(_NONCE.pack(self._nonce), view[position + 2 : stop], None))
                except (InvalidTag, ValueError):
                    raise UntrustedDataError("a noise frame does not authenticate") from None
                self._nonce += 1
                position = stop
        if position:
            del pending[:position]
        return opened[0] if len(opened) == 1 else b"".join(opened)


class FrameSealer:
    """Seals bytes as a sequence of frames."""

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._encrypt = ChaCha20Poly1305(key).encrypt
        self._nonce = nonce

    def seal(self, data: bytes) -> bytes:
        """All of `data` (any length) as frames, ready to send in one piece and in this order."""
        frames: list[bytes] = []
        with memoryview(data) as view:
            for start in range(0, len(data), MAX_PLAINTEXT):
                frame = self._encrypt(_NONCE.pack(self._nonce), view[start : start + MAX_PLAINTEXT], None)
                self._nonce += 1
                frames.append(_LENGTH.pack(len(frame)))
                frames.append(frame)
        return b"".join(frames)


class NoiseSession(SecureSession):
    """An authenticated connection. One task may read and one may write at a time (the muxer sees to that)."""

    def __init__(self, secured: SecureSession, raw: IRawConnection) -> None:
        super().__init__(
            local_peer=secured.get_local_peer(),
            local_private_key=secured.get_local_private_key(),
            remote_peer=secured.get_remote_peer(),
            remote_permanent_pubkey=secured.get_remote_public_key(),
            is_initiator=secured.is_initiator,
            conn=secured.conn,
        )
        assert isinstance(secured.conn, NoiseTransportReadWriter)  # noqa: S101 - what the handshake returns
        noise = secured.conn.noise_state.noise_protocol
        self._raw = raw
        self._opener = FrameOpener(bytes(noise.cipher_state_decrypt.k), noise.cipher_state_decrypt.n)
        self._sealer = FrameSealer(bytes(noise.cipher_state_encrypt.k), noise.cipher_state_encrypt.n)
        self._plain = bytearray()
        self._broken = False
        self._unsent = b""
        tcp = getattr(raw, "stream", None)
        self._tcp = tcp if isinstance(tcp, TcpStream) else None

    async def receive(self) -> bytes:
        """Whatever came (at least one byte). Raises ConnectionClosedError at the end, UntrustedDataError on forgery."""
        if self._plain:
            data = bytes(self._plain)
            self._plain.clear()
            return data
        return await self._next_plaintext()

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes (whatever came, if None). Raises ConnectionClosedError."""
        try:
            if n is None:
                return await self.receive()
            while len(self._plain) < n:
                self._plain += await self._next_plaintext()
        except UntrustedDataError as exc:
            raise ConnectionClosedError(str(exc)) from exc
        data = bytes(self._plain[:n])
        del self._plain[:n]
        return data

    async def _next_plaintext(self) -> bytes:
        while True:
            data = await self._raw.read(_RECEIVE)
            if not data:
                raise ConnectionClosedError("the peer closed the connection")
            CONNECTIONS.received += len(data)
            if plain := self._opener.feed_untrusted(data):
                return plain

    async def write(self, data: bytes) -> None:
        """Send all of `data`. A write that was cut short (cancelled, broken) leaves the session unusable: the peer
        cannot find the next frame. Raises ConnectionClosedError."""
        if self._broken:
            raise ConnectionClosedError("the connection broke in the middle of a frame")
        self._broken = True
        unsent, self._unsent = self._unsent, b""
        sealed = self._sealer.seal(data) if data else b""
        CONNECTIONS.sent += len(sealed)
        await self._raw.write(unsent + sealed if unsent else sealed)
        self._broken = False

    def write_now(self, data: bytes) -> bool:
        """Send `data` without waiting, if the socket takes it; what it does not take goes before the next `write`.

        False: nothing was done, because a write is under way. Raises ConnectionClosedError.
        """
        tcp = self._tcp
        if self._broken or self._unsent or tcp is None:
            return False
        sealed = self._sealer.seal(data)
        CONNECTIONS.sent += len(sealed)
        self._unsent = sealed[tcp.write_now(sealed) :]
        return True

    @property
    def unsent(self) -> bool:
        """Whether `write_now` left something for `write(b"")`."""
        return bool(self._unsent)

    async def close(self) -> None:
        await self._raw.close()


class NoiseTransport(Transport):
    """The `/noise` protocol of a host: the handshake of py-libp2p, then `NoiseSession`."""

    def __init__(self, key_pair: KeyPair) -> None:
        super().__init__(key_pair, noise_privkey=new_x25519_key_pair().private_key)

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        try:
            return self._session(await super().secure_inbound(conn), conn)
        except Exception as exc:  # the handshake parses remote bytes with several libraries
            raise HandshakeFailure(f"noise handshake failed: {exc!r}") from exc

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        try:
            return self._session(await super().secure_outbound(conn, peer_id), conn)
        except PeerIDMismatchesPubkey as exc:
            raise HandshakeFailure("another peer answered") from exc
        except Exception as exc:  # the handshake parses remote bytes with several libraries
            raise HandshakeFailure(f"noise handshake failed: {exc!r}") from exc

    @staticmethod
    def _session(secured: ISecureConn, raw: IRawConnection) -> NoiseSession:
        assert isinstance(secured, SecureSession)  # noqa: S101 - what the handshake returns
        return NoiseSession(secured, raw)
