package guest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// OpenFile opens a plugin's file, which has to be a regular one, and gives its
// size in bytes. what is what it should be: "a program".
func OpenFile(path, what string) (f *os.File, size int64, err error) {
	// A named pipe must not hold the engine up until somebody writes to it.
	f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("read plugin: %w", err)
	}
	st, err := f.Stat()
	if err == nil && st.Mode().IsRegular() {
		return f, st.Size(), nil
	}
	_ = f.Close()
	if err != nil {
		return nil, 0, fmt.Errorf("read plugin: %w", err)
	}
	return nil, 0, fmt.Errorf("plugin %s is no regular file (%v): give the path of %s", path, st.Mode().Type(), what)
}

// CheckPin compares the hash of a plugin's file with the one that the
// configuration wants, both in hex; pin is "" if it wants none.
func CheckPin(path, hash, pin string) error {
	if pin == "" || strings.EqualFold(pin, hash) {
		return nil
	}
	return fmt.Errorf("plugin %s has SHA-256 %s and %s is wanted: put the right file there, or name the new hash", path, hash, pin)
}
