package terminal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestNothingActsOnATerminal(t *testing.T) {
	for _, c := range []struct{ from, want string }{
		{"plain text, 日本語\n\twith a tab", "plain text, 日本語\n\twith a tab"},
		{"\x1b]0;title\a\x1b[2J", `\x1b]0;title\x07\x1b[2J`},
		{"all done\rtokenfork", `all done\x0dtokenfork`},
		{"C1 \u009b31m, DEL \u007f", `C1 \u009b31m, DEL \u007f`},
		{"lone C1 byte \x9b31m", `lone C1 byte \x9b31m`},
		{"path/\u202egnp.exe \u2066x\u2069", `path/\u202egnp.exe \u2066x\u2069`},
	} {
		var b bytes.Buffer
		if n, err := fmt.Fprint(NewWriter(&b), c.from); err != nil || n != len(c.from) {
			t.Fatal(n, err)
		}
		if b.String() != c.want {
			t.Errorf("%q is written as %q, want %q", c.from, b.String(), c.want)
		}
	}
}

func TestJSONStaysTheSame(t *testing.T) {
	var all strings.Builder
	for r := range rune(0x2100) {
		all.WriteRune(r)
	}
	var b bytes.Buffer
	if err := json.NewEncoder(NewWriter(&b)).Encode(all.String()); err != nil {
		t.Fatal(err)
	}
	var back string
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back != all.String() {
		t.Errorf("text read back differs: %v", err)
	}
	if strings.ContainsAny(b.String(), "\x1b\x7f\u009b\u202e") {
		t.Error("a control character got through")
	}
}
