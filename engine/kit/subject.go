package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/process"
	"blockengine/engine/pluginhost/sandbox"
	"blockengine/engine/pluginhost/wasm"
	"blockengine/sdk/manifest"
)

// Loading says how a plugin's file is loaded.
type Loading struct {
	Memory  uint64       // bytes; 0: the runtime's default
	Compile []string     // the command that compiles modules; nil: this process does
	Sandbox sandbox.Mode // of a process; "": strict
	Shim    []string     // the command that is the sandbox's shim; nil: the default
	Network bool         // a process in a sandbox keeps the network
	Log     *slog.Logger // what the plugin and its runtime say; nil: nowhere
}

// subject is the plugin under test. One of module and store is there.
type subject struct {
	path     string
	runtime  string
	manifest manifest.Manifest
	hash     string
	module   guest.Module
	store    guest.Store
	close    func()
}

func (s *subject) kind() string {
	if s.store != nil {
		return "store"
	}
	return "protocol"
}

// runtimeOf tells from a file's first bytes what would run it: "wasm", "process",
// or "" if nothing would.
func runtimeOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	switch string(magic[:]) {
	case "\x00asm":
		return "wasm", nil
	case "\x7fELF":
		return "process", nil
	}
	return "", nil
}

// load loads a plugin's file as its first bytes want it.
func load(ctx context.Context, path string, o Loading) (*subject, error) {
	runtime, err := runtimeOf(path)
	if err != nil {
		return nil, err
	}
	switch runtime {
	case "wasm":
		return loadWasm(ctx, path, o)
	case "process":
		return loadProcess(ctx, path, o)
	}
	return nil, fmt.Errorf("%s is no plugin: neither a WebAssembly module nor an ELF program", path)
}

func loadWasm(ctx context.Context, path string, o Loading) (*subject, error) {
	m, err := wasm.Load(ctx, wasm.Options{Path: path, Memory: o.Memory, Self: o.Compile, Log: o.Log})
	if err != nil {
		return nil, err
	}
	return &subject{path: path, runtime: m.Runtime(), manifest: m.Manifest(), hash: m.Hash(), module: m,
		close: func() { _ = m.Close() }}, nil
}

func loadProcess(ctx context.Context, path string, o Loading) (*subject, error) {
	state, err := os.MkdirTemp("", "engine-plugin-test-")
	if err != nil {
		return nil, err
	}
	l, err := process.Load(ctx, process.Options{Path: path, Memory: o.Memory, Sandbox: o.Sandbox, Network: o.Network,
		StateDir: state, Self: o.Shim, Log: o.Log})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(state))
	}
	s := &subject{path: path, runtime: "process", close: func() { _ = l.Close(); _ = os.RemoveAll(state) }}
	if m := l.Protocol(); m != nil {
		s.module, s.manifest, s.hash = m, m.Manifest(), m.Hash()
		return s, nil
	}
	s.store = l.Store()
	s.manifest, s.hash = s.store.Manifest(), s.store.Hash()
	return s, nil
}

// Find gives the plugin's file that is meant by a path: the file, or the only
// plugin in the directory or in its subdirectory build.
func Find(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return path, err
	}
	var found []string
	for _, dir := range []string{path, filepath.Join(path, "build")} {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			file := filepath.Join(dir, e.Name())
			if e.Type().IsRegular() && isPlugin(file) {
				found = append(found, file)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("there is no built plugin in %s or its subdirectory build: build it first (make), or name the file", path)
	}
	return "", fmt.Errorf("there are several plugins in %s: name one of %s", path, strings.Join(found, ", "))
}

// isPlugin tells whether a file in a directory is meant: a module, or a program
// whose name says that it is a plugin.
func isPlugin(file string) bool {
	runtime, err := runtimeOf(file)
	return err == nil && (runtime == "wasm" || runtime == "process" && strings.HasSuffix(file, ".plugin"))
}
