package wasm

import (
	"context"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/sdk/abi"
)

func TestLoadsTheSmallest(t *testing.T) {
	m := module{}.load(t)
	if m.Manifest().Name != "hand-made" || m.Manifest().ABI != abi.Version {
		t.Errorf("%+v", m.Manifest())
	}
}

func TestRefusedImports(t *testing.T) {
	i := byte(tI32)
	for _, c := range []struct {
		im    imp
		words []string
	}{
		{wasiImport("path_open", 1, i, i, i, i, i, tI64, tI64, i, i), []string{"imports wasi_snapshot_preview1.path_open (files): a protocol plugin has no files"}},
		{wasiImport("fd_read", 1, i, i, i, i), []string{"fd_read (files)"}},
		{wasiImport("sock_open", 1, i, i), []string{"sock_open (sockets)"}},
		{wasiImport("sock_accept", 1, i, i, i), []string{"sock_accept (sockets)"}},
		{wasiImport("clock_res_get", 1, i, i), []string{"clock_res_get (clocks)"}},
		{wasiImport("proc_raise", 1, i), []string{"proc_raise (processes)"}},
		{wasiImport("something_new", 1, i), []string{"something_new (system calls)"}},
		{imp{"wasi", "thread-spawn", []byte{i}, []byte{i}}, []string{"thread-spawn (threads)"}},
		{imp{"wasi_unstable", "fd_write", []byte{i, i, i, i}, []byte{i}}, []string{"wasi_unstable.fd_write (files)"}},
		{imp{"env", "abort", []byte{i}, nil}, []string{"env.abort (functions of another host)"}},
		{wasiImport("fd_write", 1, i), []string{"fd_write", "wrong type", "(i32, i32, i32, i32) -> i32"}},
	} {
		t.Run(c.im.name, func(t *testing.T) {
			wantLoadError(t, module{imports: []imp{c.im}}.bytes(), append(c.words, "x.wasm")...)
		})
	}
	both := module{imports: []imp{wasiImport("fd_read", 1, i, i, i, i), wasiImport("sock_send", 1, i)}}
	wantLoadError(t, both.bytes(), "fd_read (files)", "also refused: sock_send")
}

func TestRefusedExports(t *testing.T) {
	for _, name := range []string{abi.ExportABI, abi.ExportManifest, abi.ExportBuffers, abi.ExportCall} {
		t.Run(name, func(t *testing.T) {
			wantLoadError(t, module{without: name}.bytes(), "does not export "+name, "-buildmode=c-shared")
			wantLoadError(t, module{retype: name}.bytes(), "exports "+name+" as () -> ()")
		})
	}
	wantLoadError(t, module{noMemory: true}.bytes(), "memory")
}

func TestRefusedABIAndManifest(t *testing.T) {
	wantLoadError(t, module{abi: 2 << 16}.bytes(), "speaks version 2.0", "this engine speaks 1.0")
	wantLoadError(t, module{abi: 7}.bytes(), "speaks version 0.7")
	module{abi: abi.Major<<16 | 9}.load(t) // a later minor version
	for text, words := range map[string]string{
		`{`:                                "no JSON",
		`{"kind":"store","name":"x"}`:      `kind "store"`,
		`{"kind":"protocol","name":"a b"}`: "letters",
		`{"kind":"protocol"}`:              `name ""`,
		`{"kind":"protocol","name":"x","payload":1}`:                                                              "no JSON",
		`{"kind":"protocol","name":"x","payload":"free"}`:                                                         "payload",
		"{\"kind\":\"protocol\",\"name\":\"\xff\"}":                                                               "UTF-8",
		`{"kind":"protocol","name":"x","version":"\u001b[2J"}`:                                                    "printable",
		`{"kind":"protocol","name":"x","options":[{"name":"a","type":"float"}]}`:                                  "float",
		`{"kind":"protocol","name":"x","options":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}`:          "twice",
		`{"kind":"protocol","name":"x","options":[{"name":"a","type":"int","help":"\u0007"}]}`:                    "help",
		`{"kind":"protocol","name":"` + strings.Repeat("x", 65) + `"}`:                                            "64",
		`{"kind":"protocol","name":"x","options":[` + strings.Repeat(`{"name":"a"},`, 64) + `{"name":"a"}` + `]}`: "at most 64",
	} {
		wantLoadError(t, module{manifest: text}.bytes(), "manifest", words)
	}
}

func TestRefusedFiles(t *testing.T) {
	dir := t.TempDir()
	path := func(name string, b string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	huge := path("huge.wasm", "\x00asm\x01\x00\x00\x00")
	if err := os.Truncate(huge, 200<<20); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo.wasm")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, words string }{
		{filepath.Join(dir, "none.wasm"), "no such file"},
		{dir, "no regular file"},
		{fifo, "no regular file"},
		{huge, "209715200 bytes and the limit is"},
		{path("empty", ""), "is no WebAssembly module: the file is empty"},
		{path("text", "hello, world"), `is no WebAssembly module: it starts with "hello, w"`},
		{path("elf", "\x7fELF\x02\x01\x01\x00"), "ELF program"},
		{path("wat", "(module)"), "wat2wasm"},
		{path("component", "\x00asm\x0d\x00\x01\x00"), "component"},
		{path("version", "\x00asm\x02\x00\x00\x00"), "binary version 2"},
		{path("short", "\x00asm\x01"), "ends after 5 bytes"},
	} {
		_, err := Load(context.Background(), Options{Path: c.path})
		if err == nil || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: %v, want %q", c.path, err, c.words)
		}
	}
}

func TestPin(t *testing.T) {
	m := module{}.load(t)
	module{}.load(t, func(o *Options) { o.SHA256 = strings.ToUpper(m.Hash()) })
	_, err := Load(context.Background(), Options{Path: module{}.file(t), SHA256: strings.Repeat("0", 64)})
	if err == nil || !strings.Contains(err.Error(), m.Hash()) || !strings.Contains(err.Error(), "0000") {
		t.Error(err)
	}
}

func TestMemoryOption(t *testing.T) {
	for _, n := range []uint64{1, MinMemory - 1, MaxMemory + 1, 1 << 63} {
		if _, err := Load(context.Background(), Options{Path: module{}.file(t), Memory: n}); err == nil || !strings.Contains(err.Error(), "1MiB") {
			t.Errorf("%d: %v", n, err)
		}
	}
	module{}.load(t, func(o *Options) { o.Memory = MaxMemory })
	_, err := Load(context.Background(), Options{Path: module{memory: 17}.file(t), Memory: MinMemory})
	if err == nil {
		t.Error("a module that starts with more than its cap loads")
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("the operator changed his mind")
	cancel(why)
	if _, err := Load(ctx, Options{Path: module{}.file(t)}); !errors.Is(err, why) {
		t.Error(err)
	}
}

// TestTruncatedAndCorrupt cuts and damages a good module everywhere: an error
// or a module that works, never more.
func TestTruncatedAndCorrupt(t *testing.T) {
	good := module{imports: []imp{wasiImport("sched_yield", 1)}, init: ops(opCall, 0, opDrop)}.bytes()
	for n := range good {
		try(t, good[:n])
	}
	r := rand.New(rand.NewSource(1))
	for range 300 {
		b := append([]byte(nil), good...)
		for range 1 + r.Intn(3) {
			b[r.Intn(len(b))] = byte(r.Intn(256))
		}
		try(t, b)
	}
}

// try loads what may be anything and, if it loads, calls it.
func try(tb testing.TB, b []byte) {
	tb.Helper()
	path := writeModule(tb, b)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	m, err := Load(ctx, Options{Path: path, Memory: MinMemory, initBudget: 1_000_000})
	if err != nil {
		if !strings.Contains(err.Error(), path) {
			tb.Errorf("%q does not name the file", err)
		}
		return
	}
	defer m.Close()
	i, err := m.NewInstance(ctx)
	if err != nil {
		return
	}
	defer i.Close()
	for n := range 3 {
		if _, _, err := i.Call(n*8, 10_000); err != nil {
			return
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("\x00asm\x01\x00\x00\x00"))
	f.Add(module{}.bytes())
	f.Add(module{start: forever, init: ops(opUnreachable)}.bytes())
	f.Add(module{imports: []imp{wasiImport("proc_exit", 0, tI32)}, call: ifInput(constI32(3), opCall, 0)}.bytes())
	f.Add(module{call: ifInput(constI32(12), opMemoryGrow, 0, opDrop)}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) { try(t, b) })
}
