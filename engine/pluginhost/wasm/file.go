package wasm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"blockengine/engine/pluginhost/guest"
)

// source is a plugin's file, read once: what is checked is what is compiled.
type source struct {
	path  string
	bytes []byte
	hash  string // SHA-256 in hex
}

// readSource reads a file of at most limit bytes.
func readSource(path string, limit int64) (*source, error) {
	f, size, err := guest.OpenFile(path, "a .wasm file")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, tooLarge(path, size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read plugin %s: %w", path, err)
	}
	if int64(len(b)) > limit { // it grew while it was read
		return nil, tooLarge(path, int64(len(b)), limit)
	}
	sum := sha256.Sum256(b)
	return &source{path: path, bytes: b, hash: hex.EncodeToString(sum[:])}, nil
}

func tooLarge(path string, size, limit int64) error {
	return fmt.Errorf("plugin %s has %d bytes and the limit is %d: strip it (-ldflags='-s -w') or make it smaller", path, size, limit)
}

// pinned checks the file against the hash in the configuration, "" for none.
func (s *source) pinned(pin string) error {
	return guest.CheckPin(s.path, s.hash, pin)
}

var (
	moduleHeader = []byte("\x00asm\x01\x00\x00\x00")
	wasmMagic    = moduleHeader[:4]
)

// magic refuses what is no core module before anything looks closer.
func (s *source) magic() error {
	b := s.bytes
	switch {
	case bytes.HasPrefix(b, moduleHeader):
		return nil
	case len(b) == 0:
		return fmt.Errorf("plugin %s is no WebAssembly module: the file is empty", s.path)
	case bytes.HasPrefix(b, wasmMagic) && len(b) >= 8 && b[6] == 1:
		return fmt.Errorf("plugin %s is a WebAssembly component and not a module: build it without the component step", s.path)
	case bytes.HasPrefix(b, wasmMagic) && len(b) >= 8:
		return fmt.Errorf("plugin %s is a WebAssembly module of binary version %d: version 1 is needed", s.path, b[4])
	case bytes.HasPrefix(b, wasmMagic):
		return fmt.Errorf("plugin %s is no WebAssembly module: it ends after %d bytes", s.path, len(b))
	}
	return fmt.Errorf("plugin %s is no WebAssembly module: it starts with %s%q", s.path, kindOf(b), b[:min(len(b), 8)])
}

// kindOf names the kinds of files that are most often taken for a module.
func kindOf(b []byte) string {
	switch {
	case bytes.HasPrefix(b, []byte("\x7fELF")):
		return "the header of an ELF program (build with GOOS=wasip1 GOARCH=wasm), "
	case bytes.HasPrefix(b, []byte("(module")):
		return "WebAssembly text (translate it with wat2wasm), "
	case bytes.HasPrefix(b, []byte("\x1f\x8b")), bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")):
		return "the header of a compressed file (unpack it), "
	case bytes.HasPrefix(b, []byte("!<arch>")):
		return "the header of an archive (build package main), "
	}
	return ""
}
