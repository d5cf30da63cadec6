package wasm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// TestMain makes the test binary its own compile helper.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "internal-compile" {
		os.Exit(CompileMain(os.Args[2:], os.Stdin, os.Stderr))
	}
	if len(os.Args) > 1 && os.Args[1] == "internal-hang" {
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	if len(os.Args) > 1 && os.Args[1] == "internal-limits" {
		os.Exit(tryLimits())
	}
	code := m.Run()
	if echoDir != "" {
		os.RemoveAll(echoDir)
	}
	os.Exit(code)
}

var echoDir string

// echoFile builds the Go guest of testdata/echo once.
var echoFile = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "echo-")
	if err != nil {
		return "", err
	}
	echoDir = dir
	path := filepath.Join(dir, "echo.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", path, "./testdata/echo")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return path, err
})

// loadEcho loads the Go guest through one cache for all tests.
func loadEcho(tb testing.TB, change ...func(*Options)) *Module {
	tb.Helper()
	path, err := echoFile()
	if err != nil {
		tb.Fatal("build the Go guest:", err)
	}
	o := Options{Path: path, CacheDir: filepath.Join(echoDir, "cache"), Self: helperSelf}
	for _, f := range change {
		f(&o)
	}
	m, err := Load(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m
}

func newInstance(tb testing.TB, m guest.Module) guest.Instance {
	tb.Helper()
	i, err := m.NewInstance(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(i.Close)
	return i
}

// putRecord lays a record over b and gives its length.
func putRecord[T any](b []byte, kind uint16, v T, inline string) int {
	fixed := int(unsafe.Sizeof(v))
	size := abi.Align(fixed + len(inline))
	clear(b[:size])
	*abi.Overlay[T](b) = v
	*abi.Overlay[abi.Header](b) = abi.Header{Kind: kind, Size: uint32(size)}
	copy(b[fixed:], inline)
	return size
}

// opened puts an Opened record with one option.
func opened(b []byte, option string) int {
	return putRecord(b, abi.EvOpened, abi.Opened{OptionsLen: uint32(len(option))}, option)
}

// requests puts n requests.
func requests(b []byte, op block.Op, n int) int {
	at := 0
	for k := range n {
		at += putRecord(b[at:], abi.EvRequest, abi.Request{Tag: uint64(k + 1), Op: op, Offset: uint64(k) * 4096, Length: 4096}, "")
	}
	return at
}
