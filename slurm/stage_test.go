package slurm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/usertest"
)

// staging is a user who stages a model on a node with other users.
type staging struct {
	*usertest.User
	tmp, model, library, program string
}

func newStaging(t *testing.T) *staging {
	t.Helper()
	s := &staging{User: usertest.New(t, "vic"), tmp: usertest.Shared(t)}
	s.library = usertest.Program(t, "scripts/runner.bash")
	s.program = usertest.Program(t, program)
	s.model = s.Home + "/my model"
	s.Bash(`mkdir -p "$1/sub" && cd "$1" && echo "{}" >config.json && echo weights >sub/w.safetensors && ln -s sub/w.safetensors link.safetensors`)
	return s
}

// Bash runs a script with the model as $1.
func (s *staging) Bash(script string, env ...string) string {
	return s.User.Bash("set -- '"+s.model+"'; "+script, append(env, "TMPDIR="+s.tmp, "TOKENFORK="+s.program)...)
}

// stage gives the folder of the copy, after what was said.
func (s *staging) stage() (to, said string) {
	out := s.Bash(`source ` + s.library + `; stage "$1"`)
	i := strings.LastIndex(out, "\n")
	return out[i+1:], out[:i+1]
}

// A model is copied to a node once, whole, under its own name.
func TestStageCopiesOnce(t *testing.T) {
	s := newStaging(t)
	to, said := s.stage()
	if filepath.Base(to) != "my model" || !strings.HasPrefix(to, s.tmp) || !strings.Contains(said, "copied and verified") {
		t.Fatalf("staged to %q, said %q", to, said)
	}
	if got := s.Bash(`cat "` + to + `"/{config.json,sub/w.safetensors,link.safetensors}`); got != "{}\nweights\nweights" {
		t.Errorf("the copy holds %q", got)
	}
	first := s.Bash(`stat -c %i "` + to + `/config.json"`)
	again, said := s.stage()
	if again != to || said != "" || s.Bash(`stat -c %i "`+to+`/config.json"`) != first {
		t.Error("the second task copied it again")
	}
	if mode := s.Bash("stat -c %a " + s.tmp + "/tokenfork-models-$UID"); mode != "700" {
		t.Errorf("the folder has mode %s", mode)
	}
}

// A copy that was cut or changed, or whose model changed, is made again.
func TestStageVerifiesTheCopy(t *testing.T) {
	s := newStaging(t)
	to, _ := s.stage()
	for _, c := range []struct{ name, change, want string }{
		{"copy changed", `echo wEights > "` + to + `/sub/w.safetensors"`, "weights"},
		{"copy cut", `: > "` + to + `/sub/w.safetensors"`, "weights"},
		{"file removed", `rm "` + to + `/sub/w.safetensors"`, "weights"},
		{"file added", `echo import evil > "` + to + `/modeling.py"`, "weights"},
		{"not finished", `rm "$(dirname "` + to + `")/complete"; echo half > "` + to + `/sub/w.safetensors"`, "weights"},
		{"model changed", `echo other > "$1/sub/w.safetensors"`, "other"},
	} {
		s.Bash(c.change)
		to, _ := s.stage()
		if got := s.Bash(`cd "` + to + `"; ls modeling.py 2>/dev/null; cat sub/w.safetensors`); got != c.want {
			t.Errorf("%s: the copy holds %q, want %q", c.name, got, c.want)
		}
	}
}

// What another user put where the copy goes is neither used nor written through.
func TestStageBesideAnotherUser(t *testing.T) {
	s := newStaging(t)
	other := usertest.New(t, "oth")
	s.Bash("echo precious > ~/file")
	uid := s.Bash("echo $UID")
	for _, plant := range []string{
		// weights that look staged, and a link in place of the lock
		`mkdir -p "D/N/.staged/my model" && chmod -R 777 D && mkdir "D/N/my model" && echo evil > "D/N/my model/sub" && touch "D/N/my model/.complete" && ln -s ` + s.Home + `/file "D/N/.staged/my model/lock"`,
		`ln -s ` + other.Home + ` D`,
		`echo > D; mkdir -m 777 D.abcdef`,
	} {
		folder := s.tmp + "/tokenfork-models-" + uid
		sum := s.Bash(`printf %s "$1" | cksum | cut -d' ' -f1`)
		other.Bash(strings.NewReplacer("D", folder, "N", sum).Replace(plant))
		to, said := s.stage()
		if strings.HasPrefix(to, folder+"/") || !strings.Contains(said, "belongs to another user") {
			t.Errorf("%s: staged to %s, said %q", plant, to, said)
		}
		if got := s.Bash(`cat "` + to + `/sub/w.safetensors" ~/file`); got != "weights\nprecious" {
			t.Errorf("%s: the copy and the file hold %q", plant, got)
		}
		again, _ := s.stage()
		if again != to {
			t.Errorf("%s: the second task copied to %s, not %s", plant, again, to)
		}
		other.Bash("rm -rf " + folder + " " + folder + ".abcdef")
		own, _, _ := strings.Cut(strings.TrimPrefix(to, s.tmp+"/"), "/")
		if err := os.RemoveAll(filepath.Join(s.tmp, own)); err != nil {
			t.Fatal(err)
		}
	}
}
