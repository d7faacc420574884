package table

import (
	"bytes"
	"errors"
	"math"
	"strconv"
)

// tooLarge is the first whole number that a float64 column may have rounded.
const tooLarge = 1 << 53

var (
	errNumber   = errors.New("is not a number")
	errComma    = errors.New("has a decimal comma: write numbers with a point")
	errWhole    = errors.New("is not a whole number")
	errNegative = errors.New("is negative")
	errLarge    = errors.New("is 2^53 or more, where floats lose digits")
	errFloat16  = errors.New("is 2^11 or more in a float16 column, where digits are already lost")
	errFloat32  = errors.New("is 2^24 or more in a float32 column, where digits are already lost")
)

// isBlank knows the spellings that pandas, R, SQL and Python write for nothing.
func isBlank(b []byte) bool {
	switch string(b) {
	case "", "nan", "NaN", "NAN", "-nan", "-NaN", "NA", "<NA>", "N/A", "n/a", "#N/A", "#NA", "None", "null", "NULL", `\N`:
		return true
	}
	return false
}

// unpadded is a cell without the spaces that some writers put around numbers; a cell of spaces alone stays.
func unpadded(b []byte) []byte {
	if trimmed := bytes.Trim(b, " \t"); len(trimmed) > 0 {
		return trimmed
	}
	return b
}

// parseCount reads a whole number from 0 to 2^53, or blank. "123.0" is 123, as
// pandas writes columns with gaps.
func parseCount(b []byte) (int64, error) {
	n := int64(0)
	for i, c := range b {
		d := c - '0'
		if d > 9 {
			return parseCountSlowly(b, i, n)
		}
		n = n*10 + int64(d)
	}
	if len(b) == 0 {
		return blank, nil
	}
	if len(b) > 15 {
		return checkLarge(b)
	}
	return n, nil
}

// parseCountSlowly takes over at the first character that is no digit.
func parseCountSlowly(b []byte, i int, n int64) (int64, error) {
	switch {
	case isBlank(b):
		return blank, nil
	case b[0] == '-' && len(b) > 1 && isDigit(b[1]):
		return 0, errNegative
	case i > 0 && bytes.ContainsAny(b[i:], "eE"):
		return parseExponent(b)
	case i == 0 || b[i] != '.':
		return 0, errNumber
	}
	for _, c := range b[i+1:] {
		switch {
		case !isDigit(c):
			return 0, errNumber
		case c != '0':
			return 0, errWhole
		}
	}
	if i > 15 {
		return checkLarge(b[:i])
	}
	return n, nil
}

// parseExponent reads a whole number as R and spreadsheets write it: 1e+05, 1.5e3.
func parseExponent(b []byte) (int64, error) {
	const exact = 20 // characters of which nothing is lost in a float64 below 2^53
	f, err := strconv.ParseFloat(string(b), 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange) || bytes.ContainsAny(b, "xX_"):
		return 0, errNumber
	case f >= tooLarge:
		return 0, errLarge
	case f != math.Trunc(f) || len(b) > exact:
		return 0, errWhole
	}
	return int64(f), nil
}

func isDigit(c byte) bool { return c-'0' <= 9 }

func checkLarge(digits []byte) (int64, error) {
	n, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil || n >= tooLarge {
		return 0, errLarge
	}
	return n, nil
}

// parseID reads a sentence id that is a number, of either sign, or blank.
func parseID(b []byte) (int64, error) {
	if n, err := parseCount(b); err == nil {
		return n, nil
	}
	if n, err := strconv.ParseInt(string(b), 10, 64); err == nil && n != blank {
		return n, nil
	}
	if len(b) > 1 && b[0] == '-' {
		n, err := parseCount(b[1:])
		return -n, err
	}
	_, err := parseCount(b)
	return 0, err
}

// parseMeasure reads a float64, NaN for a blank.
func parseMeasure(b []byte) (float64, error) {
	f, err := strconv.ParseFloat(string(b), 64)
	switch {
	case err == nil:
		return f, nil
	case isBlank(b):
		return math.NaN(), nil
	case errors.Is(err, strconv.ErrRange):
		return f, nil
	}
	if _, err := strconv.ParseFloat(string(bytes.Replace(b, []byte(","), []byte("."), 1)), 64); err == nil {
		return 0, errComma
	}
	return 0, errNumber
}
