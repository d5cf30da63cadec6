package iouring

import (
	"errors"
	"slices"

	"blockengine/engine/sys"
)

// errnoIs tells whether err is one of those error numbers.
func errnoIs(err error, list ...sys.Errno) bool {
	var e sys.Errno
	return errors.As(err, &e) && slices.Contains(list, e)
}
