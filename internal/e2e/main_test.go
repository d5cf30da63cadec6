// Package e2e_test drives the engine as its users do: the built binary, a
// configuration file, Unix sockets, stock NBD clients and servers, and the
// protocol plugin compiled to WebAssembly.
//
// Where to read first: engine_test.go, the engine under test; then the file
// that is named after what is tested.
//
// E2E_LONG=1 makes the loads longer; E2E_RACE=1 builds the engine with the race
// detector.
package e2e_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// built is what TestMain made, once for all tests.
var built struct {
	engine string // the binary
	nbd    string // the nbd plugin, compiled to WebAssembly
	nbd2   string // the same as version 2.0.0
	bad    string // badnbd
	cache  string // compilation cache of an engine that has run the plugins
}

// long is set for loads that take their time, raced where the engine is slow
// because the race detector is in it.
var (
	long  = os.Getenv("E2E_LONG") == "1"
	raced = os.Getenv("E2E_RACE") == "1"
)

func TestMain(m *testing.M) {
	crowd()
	dir, err := os.MkdirTemp("", "e2e")
	if err == nil {
		err = build(dir)
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// crowd has more tests run side by side than there are CPUs, unless the command
// line says how many: most of the time they wait, for a fence, a fault, a server.
func crowd() {
	flag.Parse()
	given := raced // a slow engine does not wait
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0)))
	}
}

// build makes the engine and the plugins in dir, and has the engine compile the
// modules once, so that not every test pays for it.
func build(dir string) error {
	built.engine, built.nbd = filepath.Join(dir, "engine"), filepath.Join(dir, "nbd.wasm")
	built.nbd2, built.bad = filepath.Join(dir, "nbd2.wasm"), filepath.Join(dir, "bad.wasm")
	if err := goTool(nil, engineBuild(built.engine)...); err != nil {
		return err
	}
	err := errors.Join(guest(built.nbd, "", "blockengine/plugins/nbd/wasm"),
		guest(built.nbd2, "-X blockengine/plugins/nbd.Version="+version2, "blockengine/plugins/nbd/wasm"),
		guest(built.bad, "", "blockengine/internal/e2e/badnbd"))
	if err != nil {
		return err
	}
	return warm(filepath.Join(dir, "warm"))
}

// engineBuild gives the go tool's arguments that make an engine.
func engineBuild(file string, more ...string) []string {
	args := append([]string{"build", "-buildvcs=false", "-o", file}, more...)
	if raced {
		args = append(args, "-race")
	}
	return append(args, "blockengine/engine")
}

// guest compiles a package to WebAssembly.
func guest(file, ldflags, pkg string) error {
	return goTool([]string{"GOOS=wasip1", "GOARCH=wasm"}, "build", "-buildvcs=false", "-buildmode=c-shared",
		"-trimpath", "-ldflags=-s -w "+ldflags, "-o", file, pkg)
}

func goTool(env []string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, out)
	}
	return nil
}

// warm fills a compilation cache.
func warm(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	built.cache = filepath.Join(dir, "run", "cache")
	c := config{plugins: map[string]string{"nbd2": built.nbd2, "bad": built.bad}, memory: "32MiB",
		volumes: []volume{{name: "warm", plugin: "nbd", server: "unix:none"}}}
	file := filepath.Join(dir, "engine.toml")
	if err := os.WriteFile(file, []byte(c.text(filepath.Join(dir, "run"), filepath.Join(dir, "nbd.sock"))), 0o600); err != nil {
		return err
	}
	p, err := spawn(built.engine, "run", "-c", file)
	if err != nil {
		return err
	}
	if !p.waitOutput("ready\n", 5*time.Minute) { // it compiles three modules
		return fmt.Errorf("the engine does not come up:\n%s", p.out.String())
	}
	return p.terminate(time.Minute)
}
