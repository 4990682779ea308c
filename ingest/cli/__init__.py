"""The command line: what each command is told, what it prints and how it exits. Nothing below imports it.

Commands declare their options in light modules; what does the work is imported when a command runs, so that `--help`
and `--version` load no network, image or sandbox code. stdout is the result, stderr everything else.
"""
