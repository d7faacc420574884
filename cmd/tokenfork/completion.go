package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
	mangokong "github.com/alecthomas/mango-kong"
	"github.com/muesli/roff"
	"github.com/willabides/kongplete"

	"tokenfork/internal/shell"
)

// completeCommand is what the shells call, with the line in COMP_LINE. A variable alone
// never makes it of a task that inherited one.
const completeCommand = "__complete"

// complete prints what may come next in the line.
func complete(parser *kong.Kong) (code int) {
	kongplete.Complete(parser, kongplete.WithExitFunc(func(c int) { code = c }))
	return code
}

// completionCmd prints a shell's lines that turn completion on.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help shows how it is used.
func (completionCmd) Help() string {
	return `For the shell that runs, or in its start-up file:
  eval "$(tokenfork completion bash)"
  eval "$(tokenfork completion zsh)"
  tokenfork completion fish | source`
}

var completions = map[string]string{
	"bash": "complete -o default -C 'BIN " + completeCommand + "' tokenfork\n",
	"zsh": "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" +
		"complete -o default -C 'BIN " + completeCommand + "' tokenfork\n",
	"fish": `function __tokenfork_complete
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct); and set COMP_LINE "$COMP_LINE "
    set -l found (BIN ` + completeCommand + `)
    if set -q found[1]
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -f -c tokenfork -a "(__tokenfork_complete)"
`,
}

// Run is the command.
func (c *completionCmd) Run(con *console) error {
	bin, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	bin = shell.Quote(bin)
	if c.Shell != "fish" {
		bin = strings.ReplaceAll(bin, "'", `'\''`) // within quotes already
	}
	fmt.Fprint(con.out, strings.ReplaceAll(completions[c.Shell], "BIN", bin))
	return nil
}

// manCmd prints the manual.
type manCmd struct{}

// Help shows how it is used.
func (manCmd) Help() string {
	return `Example:
  tokenfork man > ~/.local/share/man/man1/tokenfork.1 && man tokenfork`
}

// Run is the command.
func (c *manCmd) Run(app *kong.Kong, con *console) error {
	for _, command := range app.Model.Children {
		command.Detail = "\n" + command.Help + "\n\n" + command.Detail // the library puts it behind the command's line
		command.Help = ""
	}
	fmt.Fprint(con.out, mangokong.NewManPage(1, app.Model).Build(roff.NewDocument()))
	return nil
}
