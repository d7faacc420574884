package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tab is a page in Chromium that a test clicks and types in, by the DevTools protocol over
// a pipe.
type tab struct {
	t        *testing.T
	to       io.Writer
	from     *bufio.Reader
	session  string
	id       int
	loads    int
	requests []string
	said     []string // on the console
}

func openTab(t *testing.T) *tab {
	t.Helper()
	theirs, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, theirsToo, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(), "--window-size=1300,850", "--remote-debugging-pipe")
	cmd.ExtraFiles = []*os.File{theirs, theirsToo} // it reads 3 and writes 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("no browser: install it with scripts/setup-report: %v", err)
	}
	theirs.Close()
	theirsToo.Close()
	stuck := time.AfterFunc(5*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	b := &tab{t: t, to: to, from: bufio.NewReaderSize(from, 1<<20)}
	t.Cleanup(func() {
		b.session = ""
		_ = json.Unmarshal(b.call("Browser.close", nil), &struct{}{})
		_ = cmd.Wait()
		stuck.Stop()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its helpers, if any is left
		to.Close()
		from.Close()
	})
	var target struct{ TargetID string }
	b.decode(b.call("Target.createTarget", map[string]any{"url": "about:blank"}), &target)
	var attached struct{ SessionID string }
	b.decode(b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}), &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(domain+".enable", nil)
	}
	return b
}

func (b *tab) decode(from json.RawMessage, to any) {
	b.t.Helper()
	if err := json.Unmarshal(from, to); err != nil {
		b.t.Fatalf("decode %s: %v", from, err)
	}
}

// call sends a command and gives its result.
func (b *tab) call(method string, params any) json.RawMessage {
	b.t.Helper()
	b.id++
	m := map[string]any{"id": b.id, "method": method}
	if params != nil {
		m["params"] = params
	}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	said, err := json.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.to.Write(append(said, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		id, result := b.next(method)
		if id == b.id {
			return result
		}
	}
}

// next takes a message: the result of a command, or an event.
func (b *tab) next(method string) (id int, result json.RawMessage) {
	b.t.Helper()
	line, err := b.from.ReadBytes(0)
	if err != nil {
		b.t.Fatalf("%s: chromium ended: %v", method, err)
	}
	var m struct {
		ID     int
		Method string
		Params json.RawMessage
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	b.decode(bytes.TrimSuffix(line, []byte{0}), &m)
	if m.Error != nil {
		b.t.Fatalf("%s: %s", method, m.Error.Message)
	}
	switch m.Method {
	case "Page.loadEventFired":
		b.loads++
	case "Network.requestWillBeSent":
		var p struct{ Request struct{ URL string } }
		b.decode(m.Params, &p)
		if !strings.HasPrefix(p.Request.URL, "data:") {
			b.requests = append(b.requests, p.Request.URL)
		}
	case "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded":
		b.said = append(b.said, string(m.Params))
	}
	return m.ID, m.Result
}

// load opens an address and waits until it is there.
func (b *tab) load(url string) {
	b.t.Helper()
	before := b.loads
	b.call("Page.navigate", map[string]any{"url": "about:blank"})
	b.waitLoad(before)
	before = b.loads
	b.call("Page.navigate", map[string]any{"url": url})
	b.waitLoad(before)
}

// waitLoad waits for a load after so many.
func (b *tab) waitLoad(before int) {
	b.t.Helper()
	for b.loads == before {
		b.next("load")
	}
}

// eval gives an expression's value; a promise's once it is kept.
func (b *tab) eval(expression string) any {
	b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.decode(b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}), &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, r.ExceptionDetails)
	}
	return r.Result.Value
}

// want compares an expression's value, as it is printed.
func (b *tab) want(expression, want string) {
	b.t.Helper()
	if got := fmt.Sprint(b.eval(expression)); got != want {
		b.t.Errorf("%s is %.300q, want %q", expression, got, want)
	}
}

// until waits for an expression to be true; a page that is stuck fails the test.
func (b *tab) until(expression string) {
	b.t.Helper()
	b.eval(`new Promise((done, fail) => { setTimeout(fail, 60000, document.body.innerText.slice(0, 500)); const look = () => { if (` + expression + `) done(); else setTimeout(look, 10); }; look(); })`)
}

// key presses a key: a character, or a key by its name.
func (b *tab) key(key string) {
	b.t.Helper()
	down := map[string]any{"type": "keyDown", "key": key}
	if len([]rune(key)) == 1 {
		down["text"] = key
	}
	b.call("Input.dispatchKeyEvent", down)
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key})
}

// mouse moves to the middle of an element, and clicks it.
func (b *tab) mouse(selector string, click bool) {
	b.t.Helper()
	at, ok := b.eval(`(() => { const e = document.querySelector(` + fmt.Sprintf("%q", selector) + `); e.scrollIntoView({block: "center"}); const r = e.getClientRects()[0]; return [r.x + r.width / 2, r.y + r.height / 2]; })()`).([]any)
	if !ok {
		b.t.Fatalf("no %s", selector)
	}
	kinds := []string{"mouseMoved"}
	if click {
		kinds = append(kinds, "mousePressed", "mouseReleased")
	}
	for _, kind := range kinds {
		b.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1})
	}
}
