package endpoint

import (
	"encoding/json"
	"fmt"
	"html"
	"regexp"
	"strings"
	"time"

	"tokenfork/internal/terminal"
)

// words are what the body of an error says, in whichever form.
type words struct {
	message string
	code    string // and type, and whatever else names the kind of error
	status  int    // in the body, 0 for none
	wait    time.Duration
	raw     string // what the model had written
	foreign bool   // the body is no JSON object or array
}

// readWords understands {"error": {…}}, {"error": "text"}, {"message": …},
// {"detail": …}, a list of one of these, and web pages.
func readWords(body []byte) words {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return words{message: pageText(string(body)), foreign: true}
	}
	if list, ok := v.([]any); ok && len(list) > 0 {
		v = list[0]
	}
	m, ok := v.(map[string]any)
	if !ok {
		return words{message: terminal.Clip(string(body), 500), foreign: true}
	}
	w := words{code: joined(m["type"], m["code"], m["error_type"])}
	inner, isObject := m["error"].(map[string]any)
	if !isObject {
		w.message = firstOf(m["message"], m["error"], m["detail"], m["errors"], m["msg"])
		w.status = int(max(tokens(m["code"]), tokens(m["status"]), 0))
	} else {
		w.message = firstOf(inner["message"], inner["msg"], inner["detail"], m["message"])
		w.code = joined(w.code, inner["code"], inner["type"], inner["status"])
		w.status = int(max(tokens(inner["code"]), tokens(inner["status"]), 0))
		w.raw, _ = inner["failed_generation"].(string)
		w.more(inner)
	}
	if w.message == "" {
		w.message = string(body)
	}
	return w
}

// more adds what gateways say of the provider behind them, and Google of the break.
func (w *words) more(inner map[string]any) {
	if meta, ok := inner["metadata"].(map[string]any); ok {
		for _, name := range []string{"reasons", "raw"} {
			if s := firstOf(meta[name]); s != "" {
				w.message += ": " + terminal.Clip(s, 300)
			}
		}
	}
	details, _ := inner["details"].([]any)
	for _, d := range details {
		if m, ok := d.(map[string]any); ok {
			if s, ok := m["retryDelay"].(string); ok {
				if wait, err := time.ParseDuration(s); err == nil {
					w.wait = max(w.wait, wait)
				}
			}
		}
	}
}

// firstOf is the first value that is set, as text.
func firstOf(values ...any) string {
	for _, v := range values {
		switch v := v.(type) {
		case nil:
		case string:
			if v != "" {
				return v
			}
		default:
			b, err := json.Marshal(v)
			if err == nil {
				return string(b)
			}
		}
	}
	return ""
}

func joined(values ...any) string {
	var all []string
	for _, v := range values {
		if v != nil && v != "" {
			all = append(all, fmt.Sprint(v))
		}
	}
	return strings.Join(all, " ")
}

var (
	pageNoise = regexp.MustCompile(`(?is)<(script|style)\b.*?</(script|style)>|<!--.*?-->`)
	pageTag   = regexp.MustCompile(`(?s)<[^>]*>`)
)

// pageText is the text of a web page, or any other text as it is.
func pageText(s string) string {
	s = terminal.Clip(s, 64<<10)
	if !strings.HasPrefix(strings.TrimSpace(s), "<") {
		return terminal.Clip(s, 500)
	}
	s = pageTag.ReplaceAllString(pageNoise.ReplaceAllString(s, " "), " ")
	return "a web page: " + terminal.Clip(strings.Join(strings.Fields(html.UnescapeString(s)), " "), 300)
}
