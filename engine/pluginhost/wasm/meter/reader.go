package meter

import (
	"fmt"
	"unicode/utf8"
)

// reader walks over a part of the module. The first error sticks: all later
// reads give zero, so that callers check once per item and not once per byte.
type reader struct {
	buf     []byte // the whole module; offsets in errors count from its start
	pos     int
	end     int // exclusive; pos <= end <= len(buf)
	section string
	err     *Error
}

func (r *reader) ok() bool   { return r.err == nil }
func (r *reader) done() bool { return r.err != nil || r.pos >= r.end }
func (r *reader) left() int  { return r.end - r.pos }

// fail keeps the first error and moves to the end, so that loops stop.
func (r *reader) fail(kind error, format string, args ...any) {
	if r.err == nil {
		r.err = &Error{Kind: kind, Section: r.section, Offset: r.pos, Detail: fmt.Sprintf(format, args...)}
	}
}

func (r *reader) malformed(format string, args ...any) { r.fail(ErrMalformed, format, args...) }

// sub gives a reader over the next n bytes and skips them here.
func (r *reader) sub(n uint32, what string) reader {
	if r.err == nil && int64(n) > int64(r.left()) {
		r.malformed("%s claims %d bytes, %d are left", what, n, r.left())
	}
	if r.err != nil {
		return reader{buf: r.buf, pos: r.end, end: r.end, section: r.section, err: r.err}
	}
	s := reader{buf: r.buf, pos: r.pos, end: r.pos + int(n), section: r.section}
	r.pos += int(n)
	return s
}

// finish reports what a sub-reader found, and bytes it left over.
func (r *reader) finish(s *reader, what string) {
	if s.err == nil && s.pos != s.end {
		s.malformed("%d bytes left over at the end of %s", s.left(), what)
	}
	if r.err == nil {
		r.err = s.err
	}
}

func (r *reader) u8(what string) byte {
	if r.err != nil {
		return 0
	}
	if r.pos >= r.end {
		r.malformed("ends inside %s", what)
		return 0
	}
	b := r.buf[r.pos]
	r.pos++
	return b
}

// bytes gives the next n bytes of the module itself, not a copy.
func (r *reader) bytes(n uint32, what string) []byte {
	s := r.sub(n, what)
	if r.err != nil {
		return nil
	}
	return s.buf[s.pos:s.end]
}

// tryU32 reads what u32 does. If it is not well formed, nothing is read: u32
// says what is wrong.
func (r *reader) tryU32() (v uint32, ok bool) {
	if r.err != nil {
		return 0, false
	}
	for i, b := range r.buf[r.pos:min(r.pos+5, r.end)] {
		if i == 4 && b > 0x0f {
			break
		}
		v |= uint32(b&0x7f) << (7 * i)
		if b < 0x80 {
			r.pos += i + 1
			return v, true
		}
	}
	return 0, false
}

// u32 reads an unsigned LEB128 of at most 5 bytes whose unused bits are zero.
func (r *reader) u32(what string) uint32 {
	if v, ok := r.tryU32(); ok {
		return v
	}
	var v uint32
	for shift := 0; shift < 35; shift += 7 {
		b := r.u8(what)
		if shift == 28 && b > 0x0f {
			r.malformed("%s does not fit in 32 bits", what)
			return 0
		}
		v |= uint32(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	return 0 // not reached: the fifth byte either ends or fails
}

// signed reads a signed LEB128 of width bits (32, 33 or 64) whose unused bits
// repeat the sign.
func (r *reader) signed(width int, what string) int64 {
	var v int64
	for shift := 0; ; shift += 7 {
		b := r.u8(what)
		if r.err != nil {
			return 0
		}
		if used := width - shift; used < 7 && !signBitsAgree(b, used) {
			r.malformed("%s does not fit in %d bits", what, width)
			return 0
		}
		v |= int64(b&0x7f) << shift
		if b < 0x80 {
			if shift+7 < 64 && b&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
}

// signBitsAgree says whether b is a last byte whose bits above the used ones
// all equal the sign, the highest used bit.
func signBitsAgree(b byte, used int) bool {
	high := int8(b<<1) >> used // sign bit and all above it, arithmetic
	return b < 0x80 && (high == 0 || high == -1)
}

// count reads the length of a vector, refuses it over limit, and refuses a
// length that the bytes left (at least min per entry) cannot hold.
func (r *reader) count(what string, limit uint32, min int) int {
	n := r.u32("number of " + what)
	if r.err != nil {
		return 0
	}
	if n > limit {
		r.fail(ErrLimit, "%d %s, the limit is %d", n, what, limit)
		return 0
	}
	if int64(n)*int64(min) > int64(r.left()) {
		r.malformed("claims %d %s in %d bytes", n, what, r.left())
		return 0
	}
	return int(n)
}

// index reads an index and checks it against the size of its space.
func (r *reader) index(space string, size int) uint32 {
	i, ok := r.tryU32()
	if !ok { // a name is put together for errors only: code is full of indices
		i = r.u32(space + " index")
	}
	if r.err == nil && int64(i) >= int64(size) {
		r.malformed("%s index %d, the module has %d", space, i, size)
		return 0
	}
	return i
}

// name reads a UTF-8 name of at most limit bytes.
func (r *reader) name(what string, limit uint32) string {
	n := r.u32("length of " + what)
	if r.err == nil && n > limit {
		r.fail(ErrLimit, "%s of %d bytes, the limit is %d", what, n, limit)
	}
	b := r.bytes(n, what)
	if r.err == nil && !utf8.Valid(b) {
		r.malformed("%s is not UTF-8", what)
	}
	if r.err != nil {
		return ""
	}
	return string(b)
}
