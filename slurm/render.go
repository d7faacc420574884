package slurm

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"tokenfork/internal/shell"
)

//go:embed scripts
var scripts embed.FS

// library is what the array scripts source.
const library = "runner.bash"

// assignment is one line of a script's settings.
type assignment struct {
	name   string
	values []string
	list   bool // a bash array
}

func word(name, value string) assignment            { return assignment{name, []string{value}, false} }
func words(name string, values []string) assignment { return assignment{name, values, true} }

// String is the line in bash.
func (a assignment) String() string {
	if a.list {
		return a.name + "=(" + shell.Join(a.values) + ")"
	}
	return a.name + "=" + shell.Quote(a.values[0])
}

// directive is an #SBATCH line; value "" is a flag without one.
type directive struct {
	name, value string
	off         bool // the script's own line does not count
}

func (d directive) String() string {
	if d.off {
		return "##SBATCH --" + d.name + "="
	}
	if d.value == "" {
		return "#SBATCH --" + d.name
	}
	value := d.value
	if strings.ContainsAny(value, " '\"\\#") {
		value = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
	}
	return "#SBATCH --" + d.name + "=" + value
}

// render fills an embedded script in: a directive takes the place of its line,
// on or off, or follows the last; a setting that the script does not have is
// left out.
func render(name string, directives []directive, settings []assignment) (string, error) {
	b, err := scripts.ReadFile("scripts/" + name)
	if err != nil {
		return "", fmt.Errorf("read embedded script: %w", err)
	}
	lines := strings.Split(string(b), "\n")
	for _, d := range directives {
		lines = setDirective(lines, d)
	}
	for i, line := range lines {
		lines[i] = fill(line, settings)
	}
	return strings.Join(lines, "\n"), nil
}

func setDirective(lines []string, d directive) []string {
	last := 0
	for i, line := range lines {
		body, ok := strings.CutPrefix(strings.TrimPrefix(line, "#"), "#SBATCH --")
		if !ok {
			body, ok = strings.CutPrefix(line, "#SBATCH --")
		}
		if !ok {
			continue
		}
		if name, _, _ := strings.Cut(body, "="); name == d.name {
			lines[i] = d.String()
			return lines
		}
		last = i
	}
	if d.off {
		return lines
	}
	return slices.Insert(lines, last+1, d.String())
}

var settingLine = regexp.MustCompile(`^([A-Z][A-Z_]*)=(?:'[^']*'|\([^)]*\)|\S*)(\s+#.*)?$`)

// fill sets the line's variable if it is one of settings, and keeps the comment.
func fill(line string, settings []assignment) string {
	m := settingLine.FindStringSubmatch(line)
	if m == nil {
		return line
	}
	for _, a := range settings {
		if a.name == m[1] {
			comment := strings.TrimSpace(m[2])
			if comment == "" {
				return a.String()
			}
			return fmt.Sprintf("%-25s %s", a.String(), comment)
		}
	}
	return line
}

// write puts the rendered scripts and the library into folder.
func write(folder string, rendered map[string]string) error {
	if err := os.MkdirAll(filepath.Join(folder, "logs"), 0o777); err != nil {
		return fmt.Errorf("make the scripts' folder: %w", err)
	}
	lib, err := fs.ReadFile(scripts, "scripts/"+library)
	if err != nil {
		return fmt.Errorf("read embedded script: %w", err)
	}
	rendered[library] = string(lib)
	for name, text := range rendered {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o666); err != nil {
			return fmt.Errorf("write script: %w", err)
		}
	}
	return nil
}
