"""The Go program's own answers, as data, and a runner that holds ours against them (see __main__.py)."""
