package fleet

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"tokenfork/internal/failure"
)

// A server that is not vLLM is refused by name at once. One that was there, or will be, is waited for.
func TestServersThatAreNotVLLM(t *testing.T) {
	for name, c := range map[string]struct {
		before bool // it was there
		status int
		says   string // "" for one that is waited for
	}{
		"an OpenAI proxy": {false, 404, "does not answer as vLLM does: GET /health: status 404: Invalid URL"},
		"a login page":    {false, 302, "does not answer as vLLM does: GET /health: status 302"},
		"a key":           {false, 401, "refuses: GET /health: status 401"},
		"a bad gateway":   {false, 502, ""},
		"loading":         {false, 503, ""},
		"gone for now":    {true, 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			var asked atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				switch n := asked.Add(1); {
				case n == 1 && c.before:
				case n == 3:
					cancel()
					fallthrough
				default:
					w.WriteHeader(c.status)
					_, _ = w.Write([]byte(`{"error":{"message":"Invalid URL"}}`)) // the client may be gone
				}
			}))
			defer server.Close()
			r, err := newRemote(server.URL, "", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if c.before {
				if _, _, err := r.Client(ctx); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err = r.Client(ctx)
			refused := failure.Code(err) == failure.Refused
			if err == nil || refused != (c.says != "") || refused && (!strings.Contains(err.Error(), c.says) || asked.Load() != 1) {
				t.Errorf("got %v after %d requests", err, asked.Load())
			}
		})
	}
}
