package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"tokenfork/internal/shell"
	"tokenfork/internal/vllm/fakevllm"
	"tokenfork/internal/vllm/vllmtest"
)

// block is a fenced block of a page.
type block struct{ kind, text string }

var (
	fenced      = regexp.MustCompile("(?ms)^( *)```(\\w*)\n(.*?)^ *```$")
	spanned     = regexp.MustCompile("`(tokenfork [^`]+)`")
	inSubs      = regexp.MustCompile(`\$\((tokenfork [^)]*)\)`)
	comments    = regexp.MustCompile(`(^|\s{2,}|\S\s)# .*$`)
	quotedValue = regexp.MustCompile(`^\w+="[^"]*"`)
	assigned    = regexp.MustCompile(`^\w+=`)
	inputs      = regexp.MustCompile(`\S+\.(?:csv|csv\.gz|jsonl|parquet|txt|yaml|json|tmpl)$`)
)

// page gives a page's text and its blocks.
func page(t *testing.T, path string) (string, []block) {
	t.Helper()
	b, err := os.ReadFile(path)
	ok(t, err)
	var blocks []block
	for _, m := range fenced.FindAllStringSubmatch(string(b), -1) {
		blocks = append(blocks, block{m[2], m[3]})
	}
	return string(b), blocks
}

// lines joins what a backslash continues, and leaves comments and empty lines out.
func (b block) lines() (lines []string) {
	for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
		if typed, ok := strings.CutPrefix(line, "$ "); ok {
			line = typed
		} else if b.kind == "console" {
			continue // what was printed
		}
		if line = strings.TrimSpace(comments.ReplaceAllString(strings.TrimRight(line, "\n"), "$1")); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// others are programs on the pages that are not tokenfork, with the reason why the test of
// the pages does not run them.
var others = map[string]string{
	"make":      "its targets are looked up in the Makefile",
	"go":        "the packages and tests that it names are looked up",
	"git":       "changes the repository",
	"scripts":   "the scripts are looked up; they take minutes, or GPUs",
	"srun":      "needs a cluster; what it runs of tokenfork is parsed",
	"bash":      "runs what submit --print wrote, in the tests of slurm",
	"podman":    "needs an image and GPUs; the tests of internal/vllm run it",
	"apptainer": "is not there", "sky": "needs a cloud", "tofu": "needs an account; terraform/ has tests",
	"aws": "needs an account; terraform's tests run it at an S3 server", "curl": "needs the internet", "echo": "with the above",
	"tar": "with the above", "cp": "with the above", "cd": "with the above", "mkdir": "with the above", "sudo": "on a node of the cloud",
	"./preflight": "needs an account; terraform/ has tests", "eval": "completion; what is in it is parsed",
	"export": "sets the environment", "zcat": "unpacks a table", "source": "completion", "sha256sum": "sums up", "fish": "completion",
}

// TestDocsCommands holds every command on the pages against the program: tokenfork's lines
// and code spans by its own parser, targets, scripts and Go tests by looking them up.
// Whatever else is there must be in the list above.
func TestDocsCommands(t *testing.T) {
	here, err := os.Getwd()
	ok(t, err)
	root := filepath.Join(here, "../..")
	var pages []string
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md"} {
		pages = append(pages, glob(t, filepath.Join(root, pattern))...)
	}
	t.Chdir(t.TempDir()) // flags of existing files want them
	counted := 0
	for _, path := range pages {
		name := filepath.Base(path)
		text, blocks := page(t, path)
		for _, b := range blocks {
			if b.kind == "yaml" { // the configuration that later lines name
				ok(t, os.WriteFile("tokenfork.yaml", []byte(b.text), 0o600))
			}
			if !slices.Contains([]string{"", "sh", "console"}, b.kind) || strings.ContainsAny(b.text, "│→⇄") {
				continue // pictures
			}
			for _, line := range b.lines() {
				counted += docsLine(t, root, name, line)
			}
		}
		for _, m := range spanned.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			counted++
			if err := parses(m[1]); err != nil && !regexp.MustCompile(`^missing flags|^expected`).MatchString(err.Error()) {
				t.Errorf("%s: %q: %v", name, m[1], err)
			}
		}
	}
	if counted < 100 {
		t.Errorf("only %d commands were found", counted)
	}
}

// docsLine checks one line of a block and gives the number of tokenfork's commands in it.
func docsLine(t *testing.T, root, name, line string) (counted int) {
	t.Helper()
	check := func(command string) {
		counted++
		if err := parses(command); err != nil {
			t.Errorf("%s: %q: %v", name, command, err)
		}
	}
	for _, m := range inSubs.FindAllStringSubmatch(line, -1) {
		check(m[1])
	}
	for _, part := range regexp.MustCompile(`\s*(?:&&|\|\|?|; )\s*`).Split(line, -1) {
		words := strings.Fields(quotedValue.ReplaceAllString(part, ""))
		for len(words) > 0 && assigned.MatchString(words[0]) {
			words = words[1:]
		}
		if len(words) == 0 || strings.HasPrefix(words[0], "--") || strings.HasPrefix(words[0], "…") { // flags alone
			continue
		}
		if i := slices.IndexFunc(words, func(w string) bool { return w == "tokenfork" || strings.HasSuffix(w, "bin/tokenfork") }); i >= 0 && words[0] != "podman" && words[0] != "sky" && words[0] != "mkdir" {
			check(strings.Join(words[i:], " "))
			continue
		}
		if err := lookedUp(root, words); err != nil {
			t.Errorf("%s: %q: %v", name, part, err)
		}
	}
	return counted
}

// lookedUp says of a command that is not tokenfork's whether what it names exists.
func lookedUp(root string, words []string) error {
	program, _, script := strings.Cut(words[0], "/")
	if script && program != "scripts" {
		program = words[0]
		if strings.HasSuffix(program, "/apptainer") {
			program = "apptainer"
		}
	}
	if _, known := others[program]; !known {
		return fmt.Errorf("%s is not in the list of other programs", program)
	}
	switch {
	case program == "scripts":
		_, err := os.Stat(filepath.Join(root, words[0]))
		return err
	case program == "make":
		makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
		if err != nil {
			return err
		}
		for _, target := range words[1:] {
			if !strings.Contains(target, "=") && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(target)+`:`).Match(makefile) {
				return fmt.Errorf("no target %s", target)
			}
		}
	case program == "go" && words[1] == "test":
		_, err := os.Stat(filepath.Join(root, strings.TrimSuffix(words[2], "/...")))
		return err
	}
	return nil
}

// parses holds a command against the program's flags. Brackets mark what may be left
// out, an ellipsis what is not written out.
func parses(command string) error {
	command = strings.NewReplacer("[", "", "]", "", "…", "", "$models", "--small-model M --reference-model M", "*.txt", "a.txt", "COMMAND", "plan").Replace(command)
	command, _, _ = strings.Cut(command, " > ")
	words, err := shell.Split(command)
	if err != nil {
		return err
	}
	for _, word := range words {
		if inputs.MatchString(word) && !strings.Contains(word, "://") && !filepath.IsAbs(word) && filepath.Base(word) != "tokenfork.yaml" {
			if err := os.MkdirAll(filepath.Dir(word), 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(word, nil, 0o600); err != nil {
				return err
			}
		}
	}
	exited := false
	parser, err := newParser(&cli{}, io.Discard, io.Discard, kong.Exit(func(int) { exited = true }))
	if err != nil {
		return err
	}
	if _, err := parser.Parse(words[1:]); err != nil && !exited {
		return err
	}
	return nil
}

// TestDocsQuickStart does what quick-start.md says, word for word, with fake models and
// servers, then reads the results as reading.md does.
func TestDocsQuickStart(t *testing.T) {
	t.Parallel()
	j := newFakeJob(t, 24, 80, 2)
	root := vllmtest.Root()
	self, err := os.Executable()
	ok(t, err)
	dir := t.TempDir()
	link := filepath.Join(dir, "bin", "tokenfork")
	ok(t, os.MkdirAll(filepath.Dir(link), 0o700))
	ok(t, os.Symlink(self, link))
	ok(t, os.Symlink(j.table, filepath.Join(dir, "table.csv")))
	ok(t, os.WriteFile(filepath.Join(dir, "texts.jsonl"), []byte(`{"prompt": "I see a cat.", "response": "We saw a dog now."}`+"\n"), 0o600))
	env := append(os.Environ(), "TOKENFORK_TEST_MAIN=1", "TMPDIR="+dir, "TOKENFORK_VLLM="+self+" "+fakevllm.Command, fakevllm.Var+"="+fakevllm.Config{}.Env(t),
		"PATH="+filepath.Dir(link)+":"+os.Getenv("PATH"))
	shown := func(kind, text string) {
		t.Helper()
		models := strings.NewReplacer("/models/small", filepath.Join(j.dir, "small"), "/models/reference", filepath.Join(j.dir, "reference"),
			"https://host/v1", j.servers[2].URL, "--judge-model NAME", "--judge-model fake")
		cmd := exec.Command(kind, "-c", models.Replace(text))
		cmd.Dir, cmd.Env = dir, env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s\n%s", err, text, out)
		}
	}
	_, blocks := page(t, filepath.Join(root, "docs/quick-start.md"))
	ran := 0
	for _, b := range blocks {
		for _, line := range b.lines() {
			if strings.HasPrefix(line, "make ") || strings.Contains(line, " doctor ") || strings.Contains(line, "--small 7.0") {
				continue // the demo and make build have tests of their own; doctor fails without a GPU's vLLM; a table of several models
			}
			shown("bash", line)
			ran++
		}
	}
	if ran < 7 {
		t.Errorf("%d lines were run", ran)
	}
	_, blocks = page(t, filepath.Join(root, "docs/reading.md"))
	kinds, python := map[string]int{}, filepath.Join(vllmtest.Venv(), "bin/python")
	for _, b := range blocks {
		switch kinds[b.kind]++; b.kind {
		case "python":
			shown(python, b.text)
		case "sql":
			shown(python, fmt.Sprintf("import duckdb\nassert duckdb.sql(%q).fetchall()", b.text))
		case "sh":
			shown("bash", b.text)
		case "r": // R's arrow package takes longer to build than all tests
		default:
			t.Errorf("a block of %q", b.kind)
		}
	}
	if kinds["python"] != 4 || kinds["sql"] != 1 || kinds["sh"] != 1 {
		t.Errorf("blocks %v", kinds)
	}
}

// TestDocsErrors holds errors.md to the code: every quoted message is one that the program
// prints, every class of failed rows has a row, and no error leaves its way out empty.
func TestDocsErrors(t *testing.T) {
	text, _ := page(t, "../../docs/errors.md")
	_, said := sources(t)
	quoted := regexp.MustCompile("`([^`]*)`")
	rows := 0
	for line := range strings.Lines(text) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) != 3 || strings.Contains(cells[0], "_failed:") || strings.Contains(cells[0], "not_judged") {
			continue
		}
		rows++
		for _, message := range quoted.FindAllStringSubmatch(cells[0], -1) {
			for piece := range strings.SplitSeq(message[1], "…") {
				if piece = strings.TrimSpace(piece); !strings.Contains(said, piece) {
					t.Errorf("nothing prints %q: %s", piece, line)
				}
			}
		}
	}
	if rows < 40 {
		t.Errorf("%d rows", rows)
	}
	class := regexp.MustCompile(`(?m)^\s+(?:Class)?[A-Z]\w+\s+= "(\w+)"\s+//`)
	for stage, file := range map[string]string{"infer_failed": "../../internal/fleet/ask.go", "judge_failed": "../../judge/endpoint/errors.go"} {
		b, err := os.ReadFile(file)
		ok(t, err)
		found := class.FindAllStringSubmatch(string(b), -1)
		if len(found) < 4 {
			t.Errorf("%s has %d classes", file, len(found))
		}
		for _, m := range found {
			if !strings.Contains(text, "`"+stage+":"+m[1]+"`") {
				t.Errorf("errors.md lacks %s:%s", stage, m[1])
			}
		}
	}
}
