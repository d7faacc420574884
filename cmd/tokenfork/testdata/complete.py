"""Types a line with tabs into an interactive shell on a terminal, and prints what it made of it.

complete.py BIN LINE SHELL...
"""
import os
import pty
import select
import shlex
import sys

program, line, shell = shlex.quote(sys.argv[1]), sys.argv[2], sys.argv[3:]
name = os.path.basename(shell[0])
setup = {
    "fish": f"{program} completion fish | source; function tokenfork; echo \"RAN:$argv:\"; end",
}.get(name, f'eval "$({program} completion {name})"; tokenfork() {{ echo "RAN:$*:"; }}')
child, terminal = pty.fork()
if child == 0:
    os.environ.update(TERM="dumb", PS1="$ ", HISTFILE="/dev/null")
    os.execvp(shell[0], shell)
seen = b""


def until(text):
    global seen
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], 60)
        if not ready:
            sys.exit(f"no {text!r} in {seen!r}")
        seen += os.read(terminal, 65536)
    seen = seen[seen.index(text) + len(text):]


os.write(terminal, (setup + "; echo REA''DY\n").encode())
until(b"READY\r\n")
os.write(terminal, line.replace("TAB", "\t").encode() + b"\n")
until(b"RAN:")
answer = seen
while b":" not in answer:
    answer += os.read(terminal, 65536)
print(answer.split(b":")[0].decode())
os.close(terminal)
