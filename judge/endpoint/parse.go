package endpoint

import (
	"strconv"
	"strings"

	"tokenfork/internal/failure"
)

// ParseBudget reads a number of tokens ("2000000", "2M", "500k") or of dollars
// ("$20"), which takes prices per million tokens.
func ParseBudget(s string, priceIn, priceOut float64) (Budget, error) {
	b := Budget{PriceIn: priceIn, PriceOut: priceOut}
	if priceIn < 0 || priceOut < 0 {
		return b, failure.New(failure.Usage, "prices are in dollars per million tokens", "negative price")
	}
	if s == "" {
		return b, nil
	}
	if amount, ok := strings.CutPrefix(s, "$"); ok {
		dollars, err := strconv.ParseFloat(amount, 64)
		if err != nil || !(dollars > 0) {
			return b, badBudget(s)
		}
		if priceIn == 0 && priceOut == 0 {
			return b, failure.New(failure.Usage, "give both in dollars per million tokens", "a dollar budget of %s needs --price-in and --price-out", s)
		}
		b.Dollars = dollars
		return b, nil
	}
	unit := int64(1)
	number := strings.ToLower(s)
	for suffix, n := range map[string]int64{"k": 1e3, "m": 1e6, "g": 1e9} {
		if cut, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = cut, n
			break
		}
	}
	tokens, err := strconv.ParseFloat(number, 64)
	if err != nil || !(tokens > 0) || tokens*float64(unit) > 1e18 {
		return b, badBudget(s)
	}
	b.Tokens = int64(tokens * float64(unit))
	return b, nil
}

func badBudget(s string) error {
	return failure.New(failure.Usage, "give tokens (2000000, 2M) or dollars ('$20')", "budget %q", s)
}
