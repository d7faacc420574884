// Package failure gives errors the two things a batch user needs beside the
// text: the exit code a script branches on, and the command or flag that
// fixes the problem. Only main prints them, once.
package failure

import (
	"errors"
	"fmt"
)

// Exit codes, documented in docs/errors.md. Any other code is a failure too.
const (
	Partial = 3  // done, but some rows failed and are listed
	Refused = 4  // refused: incomplete, damaged or unfit input
	Server  = 5  // a model server died more often than it is restarted
	Stopped = 75 // stopped on request, resumable (EX_TEMPFAIL)
	Usage   = 80 // bad command line (kong's own code)
	Other   = 1  // everything else
)

// Error is an error with an exit code and a way out.
type Error struct {
	Code int
	Err  error
	Hint string // what to do about it; may be empty
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// ExitCode lets kong and main choose the process's exit code.
func (e *Error) ExitCode() int { return e.Code }

// New returns an error of the code with a hint. The format may hold %w.
func New(code int, hint, format string, args ...any) error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...), Hint: hint}
}

// Code is err's exit code: 0 for nil, that of the first Error in its chain, else Other.
func Code(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Other
}

// Hint is the way out that the first Error in err's chain names, or "".
func Hint(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}
