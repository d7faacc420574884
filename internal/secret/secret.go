// Package secret recognises keys and passwords by the names and shapes they have,
// so that they stay out of other programs' environments and out of files.
package secret

import (
	"regexp"
	"slices"
	"strings"
)

var (
	// name matches variables that hold a secret, by a whole word of theirs:
	// TOKENFORK_JUDGE_KEY, HF_TOKEN, DB_PASSWORD; not TOKENIZERS_PARALLELISM.
	name = regexp.MustCompile(`(?i)(^|_)(API)?(KEYS?|TOKENS?|SECRETS?|PASSW(OR)?D|PASSPHRASE|CREDENTIALS?|AUTH|AUTHORIZATION|JWT)(_|$)`)
	// harmless matches values that are none whatever their name: numbers, paths, switches.
	harmless = regexp.MustCompile(`^(|[0-9.]+|[/~].*|(?i:true|false|none|auto))$`)
	// login matches a URL with a password, such as http://user:password@proxy.
	login = regexp.MustCompile(`://[^/@\s]*:[^/@\s]+@`)
	// shape matches keys as the best-known services write them.
	shape = regexp.MustCompile(`\b(sk-[\w-]{16,}|(AKIA|ASIA)[0-9A-Z]{16}|hf_\w{20,}|gsk_\w{20,}|AIza[\w-]{30,}|Bearer\s+[\w.-]{12,})`)
	// assigned matches NAME=value, --flag=value and --flag value in a command line or script.
	assigned = regexp.MustCompile(`(?:([A-Za-z_][\w]*)=|--((?:[\w-]*-)?(?:key|token|password|secret))[= ]\s*)("[^"]*"|'[^']*'|[^\s;&|,]*)`)
)

// Variable says whether an environment variable, or a query's parameter, holds a secret.
func Variable(variable, value string) bool {
	return name.MatchString(strings.ReplaceAll(variable, "-", "_")) && !harmless.MatchString(value) || login.MatchString(value) || shape.MatchString(value)
}

// URL says whether a URL holds a password.
func URL(url string) bool { return login.MatchString(url) }

// In names the secret that a command line or script has in plain text, or gives "".
// What it reads from a file or a variable, as in KEY=$(cat FILE), is none.
func In(text string) string {
	for _, m := range assigned.FindAllStringSubmatch(text, -1) {
		value := strings.Trim(m[3], `"'`)
		if strings.HasPrefix(value, "$") || strings.HasPrefix(value, "`") {
			continue
		}
		switch {
		case m[1] != "" && Variable(m[1], value):
			return m[1]
		case m[2] != "" && !harmless.MatchString(value):
			return "--" + m[2]
		}
	}
	if shape.MatchString(text) {
		return "a key"
	}
	if login.MatchString(text) {
		return "a URL's password"
	}
	return ""
}

// foreign are prefixes of variables by which programs reach clouds and judges.
var foreign = []string{"AWS_", "AZURE_", "GOOGLE_", "OPENAI_", "ANTHROPIC_", "TOKENFORK_"}

// Strip leaves out of an environment every secret, and all by which a store or a judge
// is reached, whether or not a container passes it on.
func Strip(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		variable, value, _ := strings.Cut(kv, "=")
		for _, prefix := range []string{"APPTAINERENV_", "SINGULARITYENV_"} {
			variable = strings.TrimPrefix(variable, prefix)
		}
		return Variable(variable, value) ||
			slices.ContainsFunc(foreign, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	})
}
