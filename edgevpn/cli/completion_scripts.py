"""The completion scripts of bash, zsh and fish, made from the command line as data (words.py).

Each script holds all words, so a TAB starts no program; only names that the machine alone knows (a node's actors, its
interfaces) come from `edgevpn completion --words`. The three do the same in each shell's manner:

  bash  a walk along the words to the place they lead to, then compgen
  zsh   _arguments, which walks by itself, for each place
  fish  a `complete` for each option, on the condition that the words lead to its place
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgevpn.cli.words import DYNAMIC, Option, Place, Value


def bash(places: Sequence[Place]) -> str:
    cases = []
    for place in places:
        by_value: dict[str, list[str]] = {}
        for option in place.options:
            if option.value is not None:
                by_value.setdefault(_bash_value(option.value), []).extend(option.names)
        cases += [
            f"    {_quoted(' '.join(place.path))})",
            f"        options={_quoted(' '.join(_offered(place.options)))}",
            f"        commands={_quoted(' '.join(place.commands))}",
            f"        arguments=({' '.join(_quoted(_bash_value(value)) for value in place.arguments)})",
            f"        first={_quoted('yes' if place.options_first else '')}",
        ]
        if by_value:
            cases.append("        case $2 in")
            cases += [f"        {'|'.join(names)}) value={_quoted(value)} ;;" for value, names in by_value.items()]
            cases.append("        esac")
        cases.append("        ;;")
    return _head("bash") + _BASH.replace("@CASES@", "\n".join(cases))


def zsh(places: Sequence[Place]) -> str:
    cases = []
    for place in places:
        specs = [_quoted(spec) for option in place.options for spec in _zsh_option(option)]
        if place.commands:
            specs += ["'1:command:->command'", "'*::argument:->rest'"]
        for number, value in enumerate(place.arguments, 1):
            specs.append(_quoted(f"{number}:{_zsh_action(value)}"))
        how = "-C -S" if place.commands else "-S"
        how += " -A '-*'" if place.options_first and not place.commands else ""
        cases += [f"    ({_quoted(' '.join(place.path))})", f"        _arguments {how} \\"]
        cases += [f"            {spec} \\" for spec in specs]
        cases += ["            && return 0"]
        if place.commands:
            described = " ".join(_quoted(f"{_zsh_escaped(name)}:{text}") for name, text in place.commands.items())
            cases += [f"        commands=({described})"]
        cases += ["        ;;"]
    return "#compdef edgevpn\n" + _head("zsh") + _ZSH.replace("@CASES@", "\n".join(cases))


def fish(places: Sequence[Place]) -> str:
    takes = []
    for place in places:
        names = [name for option in place.options if option.value is not None for name in option.names]
        takes += [
            f"        case {_fish_quoted(' '.join(place.path))}",
            f"            string split ' ' -- '{' '.join(names)}'",
        ]
    lines = []
    for place in places:
        name = _fish_quoted(" ".join(place.path))
        at = f"complete -c edgevpn -n {_fish_quoted(f'__edgevpn_at {name}')}"
        for option in place.options:
            lines.append(f"{at} {_fish_option(option)}")
        for word, text in place.commands.items():
            lines.append(f"{at} -a {_fish_quoted(word)} -d {_fish_quoted(text)}")
        for number, value in enumerate(place.arguments):
            at_number = f"complete -c edgevpn -n {_fish_quoted(f'__edgevpn_at {name} {number}')}"
            lines += [f"{at_number} {_fish_value(value)}"] if value.kind != "any" else []
    paths = " ".join(_fish_quoted(" ".join(place.path)) for place in places if place.path)
    groups = " ".join(_fish_quoted(" ".join(place.path)) for place in places if place.commands)
    text = _FISH.replace("@PLACES@", paths).replace("@GROUPS@", groups)
    return _head("fish") + text.replace("@TAKES@", "\n".join(takes)) + "\n".join(lines) + "\n"


def _head(name: str) -> str:
    return f"# Completion of edgevpn for {name}, written by `edgevpn completion {name}`: it belongs to that version.\n"


def _offered(options: Iterable[Option]) -> Iterable[str]:
    for option in options:
        yield from (f"{name}=false" if option.default_on else name for name in option.names)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _bash_value(value: Value) -> str:
    return " ".join((value.kind, *value.words))


def _zsh_escaped(text: str) -> str:
    """For _arguments and _describe, where colons and brackets have a meaning."""
    return "".join(f"\\{letter}" if letter in ":[]\\" else letter for letter in text)


def _zsh_action(value: Value) -> str:
    actions = {"any": " ", "file": "_files", "dir": "_files -/", "words": f"({' '.join(value.words)})"}
    return f"{value.kind}:" + actions.get(value.kind, f"_edgevpn_names {value.kind}")


def _zsh_option(option: Option) -> Iterable[str]:
    many, text = "*" if option.repeats else "", _zsh_escaped(option.help)
    for name in option.names:
        if option.value is not None:
            yield f"{many}{name}{'=' if name.startswith('--') else '+'}[{text}]:{_zsh_action(option.value)}"
        elif option.default_on:
            yield f"{many}{name}=-[{text}]::value:(true false)"
        else:
            yield f"{many}{name}[{text}]"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_value(value: Value) -> str:
    words = {
        "any": "-x",
        "file": "-r -F",
        "dir": "-x -a '(__fish_complete_directories)'",
        "words": f"-x -a {_fish_quoted(' '.join(value.words))}",
    }
    return words.get(value.kind, f"-x -a '(__edgevpn_names {value.kind})'")


def _fish_option(option: Option) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = _fish_value(option.value) if option.value else "-a 'true false'" if option.default_on else ""
    return " ".join(part for part in (names, value, f"-d {_fish_quoted(option.help)}") if part)


_BASH = r"""
# What follows the words $1: sets options, commands, arguments, first; and value, what the option $2 takes.
_edgevpn_place() {
    value=''
    case $1 in
@CASES@
    *) options='' commands='' arguments=() first=''; return 1 ;;
    esac
}

_edgevpn() {
    local options commands first value place='' name flag='' ended='' word joins='' prefix='' what i number=0
    local -a arguments line=() node=()
    # Bash cuts words at = and : (COMP_WORDBREAKS); here they are whole again.
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((${#line[@]})); then
            name=${line[-1]}
            if [[ -n $joins ]]; then
                line[-1]+=$word joins=''
                continue
            elif [[ $word == =* && $name == -* || $word == [=:]* && ( $name != -* || $name == *=* ) ]]; then
                line[-1]+=$word joins=yes
                continue
            fi
        fi
        line+=("$word")
    done
    _edgevpn_place ''
    for ((i = 0; i < ${#line[@]} - 1; i++)); do
        word=${line[i]}
        if [[ -n $flag ]]; then
            [[ $flag == --run-dir || $flag == --interface ]] && node+=("$flag=$word")
            flag=''
        elif [[ -z $ended && $word == -- ]]; then
            ended=yes
        elif [[ -z $ended && $word == -?* ]]; then
            [[ -n $first && $word == -[!-]?* ]] && word=-$word
            [[ $word == --run-dir=* || $word == --interface=* ]] && node+=("$word")
            [[ $word == *=* ]] && continue
            flag=$word
            _edgevpn_place "$place" "$flag"
            [[ -n $value ]] || flag=''
        elif [[ -n $commands ]]; then
            place="${place:+$place }$word" ended=''
            _edgevpn_place "$place"
        else
            ((number++))
            ended=$first$ended
        fi
    done
    word=${line[-1]}
    what=${arguments[number]}
    COMPREPLY=()
    if [[ -n $flag ]]; then
        _edgevpn_place "$place" "$flag"
        what=$value
    elif [[ -z $ended && $word == -*=* ]]; then
        name=${word%%=*}
        [[ -n $first && $name == -[!-]?* ]] && name=-$name
        _edgevpn_place "$place" "$name"
        what=${value:-words true false}
        [[ ${COMP_WORDS[COMP_CWORD]} == -*=* ]] && prefix=${word%%=*}=
        word=${word#*=}
    elif [[ -z $ended && $word == -* ]]; then
        what="words $options"
    elif [[ -n $commands ]]; then
        what="words $commands"
    fi
    case $what in
    words\ *) COMPREPLY=($(compgen -P "$prefix" -W "${what#words }" -- "$word")) ;;
    file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -P "$prefix" -f -- "$word") ;;
    dir) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -P "$prefix" -d -- "$word") ;;
    @DYNAMIC@)
        COMPREPLY=($(compgen -P "$prefix" -W "$("${COMP_WORDS[0]/#\~/$HOME}" completion --words "$what" \
            "${node[@]}" 2>/dev/null)" -- "$word")) ;;
    esac
}

complete -F _edgevpn edgevpn
""".replace("@DYNAMIC@", "|".join(DYNAMIC))

_ZSH = r"""
_edgevpn_names() {
    local -a found
    found=(${(f)"$(${~program} completion --words $1 $node 2>/dev/null)"})
    compadd -a found
}

# Completes what follows the words $1.
_edgevpn_at() {
    local curcontext="$curcontext" state line
    local -a commands
    typeset -A opt_args
    case $1 in
@CASES@
    (*) return 1 ;;
    esac
    case $state in
    (command) _describe -t commands command commands ;;
    (rest) _edgevpn_at "${1:+$1 }$words[1]" ;;
    (*) return 1 ;;
    esac
}

_edgevpn() {
    local program=$words[1]
    local -a node
    integer i
    for ((i = 2; i < CURRENT; i++)); do
        case $words[i] in
        (--run-dir=*|--interface=*) node+=("$words[i]") ;;
        (--run-dir|--interface) node+=("$words[i]=$words[i+1]") ;;
        esac
    done
    _edgevpn_at ''
}

if [[ $funcstack[1] == _edgevpn ]]; then
    _edgevpn "$@"
else
    compdef _edgevpn edgevpn
fi
"""

_FISH = r"""
# The options of the place $argv that take a value.
function __edgevpn_takes
    switch "$argv"
@TAKES@
    end
end

# The place that the words before the cursor lead to, and on the next line how many arguments were given there.
function __edgevpn_place
    set -l words (commandline -opc)
    set -l place ''
    set -l skip no
    set -l number 0
    for word in $words[2..-1]
        if test $skip = yes
            set skip no
        else if string match -qr -- '^-.' $word
            if not string match -q -- '*=*' $word
                contains -- (string replace -r -- '^-([^-].)' '--$1' $word) (__edgevpn_takes $place)
                or contains -- $word (__edgevpn_takes $place)
                and set skip yes
            end
        else if contains -- "$place" @GROUPS@
            set place (string trim -- "$place $word")
            contains -- "$place" @PLACES@
            or set place '?'
        else
            set number (math $number + 1)
        end
    end
    echo $place
    echo $number
end

function __edgevpn_at
    set -l now (__edgevpn_place)
    test "$now[1]" = "$argv[1]"
    and test (count $argv) -lt 2 -o "$now[2]" = "$argv[2]"
end

function __edgevpn_names
    set -l words (commandline -opc)
    set -l node
    for i in (seq 2 (count $words))
        switch $words[$i]
            case '--run-dir=*' '--interface=*'
                set -a node $words[$i]
            case --run-dir --interface
                set -a node "$words[$i]="$words[(math $i + 1)]
        end
    end
    $words[1] completion --words $argv[1] $node 2>/dev/null
end

complete -c edgevpn -f
"""
