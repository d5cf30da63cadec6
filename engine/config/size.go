package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The units sizes are written in. There are no decimal ones: what a disk's size
// is must not depend on how a "G" is read.
const (
	KiB uint64 = 1 << 10
	MiB uint64 = 1 << 20
	GiB uint64 = 1 << 30
	TiB uint64 = 1 << 40
)

// maxSize is the largest offset the kernel knows (a signed 64-bit number).
const maxSize = math.MaxInt64

var sizeUnits = []struct {
	name  string
	bytes uint64
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}, {"", 1}}

const sizeFix = `write a number with KiB, MiB, GiB or TiB, as in "4GiB"`

// ParseSize reads a size in bytes: digits, then KiB, MiB, GiB, TiB, B or
// nothing, without a space. Sizes beyond 2^63-1 are refused. The error is a
// *ValueError.
func ParseSize(s string) (uint64, error) {
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := s[len(digits):]
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, &ValueError{quote(s) + " is no size", sizeFix}
	}
	for _, u := range sizeUnits {
		if u.name != unit {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || n > maxSize/u.bytes {
			return 0, &ValueError{quote(s) + " is larger than any disk", "write less than 8388608TiB"}
		}
		return n * u.bytes, nil
	}
	return 0, &ValueError{quote(s) + " is no size", sizeHint(digits, unit)}
}

// sizeHint guesses what was meant by 4G, 4GB or 4gib.
func sizeHint(digits, unit string) string {
	for _, u := range sizeUnits[:4] {
		short := u.name[:1]
		for _, wrong := range []string{short, short + "B", u.name} {
			if strings.EqualFold(unit, wrong) && len(digits) < 20 {
				return fmt.Sprintf("sizes are powers of two, write %q", digits+u.name)
			}
		}
	}
	return sizeFix
}

// FormatSize writes a size so that ParseSize reads it back: in the largest unit
// that divides it.
func FormatSize(n uint64) string {
	for _, u := range sizeUnits {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatUint(n/u.bytes, 10) + u.name
		}
	}
	return "0B"
}
