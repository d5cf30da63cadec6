package sdktest

import (
	"unsafe"

	"blockengine/sdk/abi"
)

// events writes event records into an instance's input buffer.
type events struct {
	buf []byte
	n   int
}

// put appends a record of type T with inline parts, each padded to 8 bytes. ok
// is false if there is no room for it.
func put[T any](e *events, kind uint16, v T, inline ...[]byte) (ok bool) {
	fixed := int(unsafe.Sizeof(v))
	size := abi.Align(fixed)
	for _, p := range inline {
		size += abi.Align(len(p))
	}
	if e.n+size > len(e.buf) {
		return false
	}
	rec := e.buf[e.n : e.n+size]
	clear(rec)
	*abi.Overlay[T](rec) = v
	*abi.Overlay[abi.Header](rec) = abi.Header{Kind: kind, Size: uint32(size)}
	at := fixed
	for _, p := range inline {
		copy(rec[at:], p)
		at += abi.Align(len(p))
	}
	e.n += size
	return true
}

// bare appends a record that is only a header.
func (e *events) bare(kind uint16) bool { return put(e, kind, abi.Header{}) }
