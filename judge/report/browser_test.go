package report

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// browsersOwn are the services that Chromium asks by itself whatever its flags say;
// they get no answer here. If the page did, its policy would tell the console.
var browsersOwn = regexp.MustCompile(`(^|\.)(accounts|clients\d*|update|optimizationguide-pa|content-autofill|www|edgedl|redirector)\.(google|googleapis|me\.gvt1|gvt1)\.com(:|$)`)

// browse loads the folder's page in Chromium, which gets everything, whatever its
// host, from one server: so the requests are all that the page asks for.
func browse(t *testing.T, dir, page string) (dom, console string, requests []string) {
	t.Helper()
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !browsersOwn.MatchString(r.Host) {
			mu.Lock()
			requests = append(requests, r.Method+" "+r.Host+r.URL.Path)
			mu.Unlock()
		}
		if r.Host == "report.test" {
			http.ServeFile(w, r, filepath.Join(dir, filepath.Base(r.URL.Path)))
			return
		}
		http.NotFound(w, r)
	}))
	defer server.Close()
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		"--proxy-server="+strings.TrimPrefix(server.URL, "http://"), "--proxy-bypass-list=<-loopback>",
		"--enable-logging=stderr", "--window-size=1100,9000", "--dump-dom", "http://report.test/"+page)
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("no browser: install it with scripts/setup-report: %v", err)
	}
	stuck := time.AfterFunc(5*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	stuck.Stop()
	if err != nil {
		t.Fatalf("chromium: %v\n%s", err, &said)
	}
	for line := range strings.Lines(said.String()) {
		if strings.Contains(line, "CONSOLE") {
			console += line
		}
	}
	return out.String(), console, requests
}

func TestPageInBrowser(t *testing.T) {
	dir, about := makeReport(t, synthetic{texts: 60, seed: 3, margins: true, measures: true}.write(t), 100)
	dom, console, requests := browse(t, dir, PageKey)
	if console != "" {
		t.Errorf("the console says\n%s", console)
	}
	if want := []string{"GET report.test/" + PageKey}; !slices.Equal(requests, want) {
		t.Errorf("requests %q, want %q", requests, want)
	}
	for _, name := range about.Figures {
		if !strings.Contains(dom, `<section id="`+name+`">`) {
			t.Errorf("%s is not on the page", name)
		}
	}
	if got, want := strings.Count(dom, "<svg"), len(about.Figures)-2; got != want {
		t.Errorf("%d pictures, want %d: all but the rates and the examples", got, want)
	}
	for _, want := range []string{"They say &lt;the same&gt; &amp; more", "n = ", "Missing verdicts:", "not drawn", "small entropy"} {
		if !strings.Contains(strings.ToLower(dom), strings.ToLower(want)) {
			t.Errorf("no %q on the page", want)
		}
	}
}

// TestBrowserSeesRequests makes sure that a page that asks for more is found out.
func TestBrowserSeesRequests(t *testing.T) {
	dir, _ := makeReport(t, synthetic{texts: 6, seed: 3}.write(t), 10)
	page, err := os.ReadFile(filepath.Join(dir, PageKey))
	if err != nil {
		t.Fatal(err)
	}
	guarded := strings.Replace(string(page), "</body>", `<img src="http://elsewhere.test/x.png"></body>`, 1)
	open := regexp.MustCompile(`<meta http-equiv[^>]*>`).ReplaceAllString(guarded, "")
	for name, text := range map[string]string{"guarded.html": guarded, "open.html": open} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, console, requests := browse(t, dir, "guarded.html"); !strings.Contains(console, "Content Security Policy") || len(requests) != 1 {
		t.Errorf("the policy lets a request pass: console %q, requests %q", console, requests)
	}
	if _, _, requests := browse(t, dir, "open.html"); !slices.Contains(requests, "GET elsewhere.test/x.png") {
		t.Errorf("requests %q hold no word of the image", requests)
	}
}

// TestFontsEmbedded asks poppler about every PDF, and looks into the SVGs.
func TestFontsEmbedded(t *testing.T) {
	dir, about := makeReport(t, synthetic{texts: 30, seed: 3, measures: true}.write(t), 20)
	pdfs, err := filepath.Glob(filepath.Join(dir, "figures", "*.pdf"))
	if err != nil || len(pdfs) != len(about.Figures)-2 {
		t.Fatalf("%d PDFs for %q, %v", len(pdfs), about.Figures, err)
	}
	font := regexp.MustCompile(`LiberationSans\s+TrueType\s+WinAnsi\s+yes `)
	for _, pdf := range pdfs {
		said, err := exec.Command("pdffonts", pdf).CombinedOutput()
		if err != nil {
			t.Fatalf("pdffonts (scripts/setup-report installs it): %v\n%s", err, said)
		}
		if lines := strings.Split(strings.TrimSpace(string(said)), "\n"); len(lines) != 3 || !font.MatchString(lines[2]) {
			t.Errorf("%s: want one embedded font:\n%s", filepath.Base(pdf), said)
		}
		svg, err := os.ReadFile(strings.TrimSuffix(pdf, ".pdf") + ".svg")
		if err != nil || !strings.Contains(string(svg), "@font-face") || !strings.Contains(string(svg), "Liberation Sans") {
			t.Errorf("%s: no font in the SVG, %v", filepath.Base(pdf), err)
		}
	}
}
