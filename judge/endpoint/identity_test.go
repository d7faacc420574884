package endpoint

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A judge is known by its URL and by what its list and its answers say of the model.
func TestIdentity(t *testing.T) {
	listed, answers := "", "m"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fmt.Fprintf(w, `{"data":[{"id":"m","created":%d%s}]}`, len(answers), listed)
			return
		}
		fmt.Fprintf(w, `{"model":%q,"system_fingerprint":"fp_%s","choices":[{"message":{"content":"{}"},"finish_reason":"stop"}]}`, answers, t.Name())
	}))
	defer server.Close()
	is := func(listing, model string) string {
		t.Helper()
		listed, answers = listing, model
		c, err := Open(t.Context(), Config{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Negotiate(t.Context(), Request{MaxTokens: 1}); err != nil {
			t.Fatal(err)
		}
		return c.Identity()
	}
	for _, c := range []struct{ listing, model, want string }{
		{"", "m", ""},
		{`,"root":"m"`, "m", ""},
		{`,"root":7,"meta":"odd"`, "m", ""},
		{`,"root":"/a/final"`, "m", ` root "/a/final"`},
		{`,"meta":{"n_params":135000000,"size":270000000,"n_ctx":512}`, "m", " n_params 135000000 size 270000000"},
		{"", "m-2025-04-14", ` answers as "m-2025-04-14"`},
	} {
		if got := is(c.listing, c.model); got != server.URL+"/v1"+c.want {
			t.Errorf("%s, %s: is %s", c.listing, c.model, got)
		}
	}
}
