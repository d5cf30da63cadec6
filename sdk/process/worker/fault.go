package worker

import (
	"fmt"
	"os"
	"unsafe"
)

// A virtual machine's memory is shown only if its file cannot shrink; but a page of
// it may still be one that the machine cannot give, such as a huge page of which
// none is left. An access of the plugin's to such a page, within Submit, is a panic
// and no bare signal (debug.SetPanicOnFault), so that the process ends with a line
// that says what has happened. It does end: what the plugin was at nobody knows. The
// engine sends the request again, by way of the buffer, to another process.

// explain is deferred. It ends the process if memory of a virtual machine was not
// there, and lets any other panic go on.
func (m *Memory) explain() {
	r := recover()
	if r == nil {
		return
	}
	fault, ok := r.(interface{ Addr() uintptr })
	if !ok || !m.holds(fault.Addr()) {
		panic(r)
	}
	fmt.Fprintf(os.Stderr, "memory of a virtual machine cannot be accessed at %#x: it was taken away while a request used it\n", fault.Addr())
	os.Exit(1)
}

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
