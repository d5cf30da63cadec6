package meter

import (
	"errors"
	"fmt"
)

// What is wrong with a module, for errors.Is.
var (
	// ErrMalformed: the bytes are not a WebAssembly module, or an index points
	// outside of its index space.
	ErrMalformed = errors.New("malformed module")
	// ErrUnsupported: a feature of WebAssembly that plugins may not use.
	ErrUnsupported = errors.New("unsupported feature")
	// ErrLimit: more or larger than Limits allows.
	ErrLimit = errors.New("limit exceeded")
	// ErrReserved: an import or export uses a name that the rewriter owns.
	ErrReserved = errors.New("reserved name")
)

// Error says what is wrong with a module, and where.
type Error struct {
	Kind    error  // one of the sentinels above
	Section string // "code", "" for the module as a whole
	Offset  int    // byte of the module at which it was noticed
	Detail  string // what is wrong and how to mend it
}

// Error implements error.
func (e *Error) Error() string {
	if e.Section == "" {
		return fmt.Sprintf("wasm module: %v: %s (byte %d)", e.Kind, e.Detail, e.Offset)
	}
	return fmt.Sprintf("wasm module: %v: %s (%s section, byte %d)", e.Kind, e.Detail, e.Section, e.Offset)
}

// Unwrap gives the sentinel.
func (e *Error) Unwrap() error { return e.Kind }
