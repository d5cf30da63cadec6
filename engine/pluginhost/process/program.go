package process

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/sys"
)

// maxProgram is the most bytes that a plugin's file may have: a copy of it stays
// in memory.
const maxProgram = 512 << 20

// program is a plugin's file as it was when it was read: a copy that nobody can
// change, so that what was hashed is what every process of it runs.
type program struct {
	path string
	hash string // SHA-256 in hex
	size int64
	copy *os.File
}

// openProgram reads a file and compares it with pin, a hash in hex, or "".
func openProgram(path, pin string) (*program, error) {
	f, size, err := guest.OpenFile(path, "a program")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxProgram {
		return nil, errTooLarge(path)
	}
	p := &program{path: path}
	if err := p.read(f); err != nil {
		return nil, err
	}
	if err := guest.CheckPin(path, p.hash, pin); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func errTooLarge(path string) error {
	return fmt.Errorf("plugin %s has more than %d bytes: strip it (-ldflags='-s -w') or make it smaller", path, maxProgram)
}

// read makes the copy, hashing it on the way.
func (p *program) read(f io.Reader) error {
	var head [8]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read plugin %s: %w", p.path, err)
	}
	if err := checkMagic(p.path, head[:n]); err != nil {
		return err
	}
	h := sha256.New()
	counted := &counter{r: io.TeeReader(io.MultiReader(bytes.NewReader(head[:n]), f), h)}
	p.copy, err = sys.ProgramCopy("plugin", counted, maxProgram)
	switch {
	case errors.Is(err, sys.ErrTooLarge): // it grew while it was read
		return errTooLarge(p.path)
	case err != nil:
		return fmt.Errorf("read plugin %s: %w", p.path, err)
	}
	p.hash, p.size = hex.EncodeToString(h.Sum(nil)), counted.n
	return nil
}

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// checkMagic refuses what the kernel would not execute, or would hand to
// somebody else to interpret.
func checkMagic(path string, head []byte) error {
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return nil
	case len(head) == 0:
		return fmt.Errorf("plugin %s is no program: the file is empty", path)
	case bytes.HasPrefix(head, []byte("\x00asm")):
		return fmt.Errorf(`plugin %s is a WebAssembly module and no program: write runtime = "wasm", or build it for linux`, path)
	case bytes.HasPrefix(head, []byte("#!")):
		return fmt.Errorf("plugin %s is a script and no program: what is hashed and executed has to be the program itself", path)
	}
	return fmt.Errorf("plugin %s is no program for linux: it starts with %q", path, head)
}

// name is what the sandbox opens: the copy, which is executed as it is.
func (p *program) name() string { return fmt.Sprintf("/proc/self/fd/%d", p.copy.Fd()) }

func (p *program) close() error { return p.copy.Close() }
