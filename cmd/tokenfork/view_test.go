package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestView opens the address that view prints, and ends it as Ctrl-C does.
func TestView(t *testing.T) {
	j := newFakeJob(t, 2, 60, 1)
	at := filepath.Join(j.dir, "job")
	j.whole(t, at)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, to := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"view", "--job", at}, to, io.Discard)
		to.Close()
	}()
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("no address: %v, exit code %d", err, <-ended)
	}
	answer, err := http.Get(strings.TrimSpace(address))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(page), "Page 1 of 1: ") {
		t.Errorf("%s, %v: %.200s", answer.Status, err, page)
	}
	interrupt()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
}
