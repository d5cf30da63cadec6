package kit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// tool runs a command in a skeleton as its author would, without a network.
func tool(t *testing.T, dir string, env []string, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir, c.Env = dir, append(append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=readonly"), env...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
}

// needs skips where a program is missing, but not in CI.
func needs(t *testing.T, program, packages string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: apt-get install %s", program, packages)
	}
	t.Skipf("%s is missing: apt-get install %s", program, packages)
}

func skeleton(t *testing.T, name, kind, lang string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: does not build skeletons")
	}
	dir := filepath.Join(t.TempDir(), name)
	got, err := Skeleton{Dir: dir, Kind: kind, Lang: lang, Engine: "engine"}.Write()
	if err != nil || got != name {
		t.Fatal(got, err)
	}
	return dir
}

var wasmEnv = []string{"GOOS=wasip1", "GOARCH=wasm"}

func TestSkeletonProtocolGo(t *testing.T) {
	dir := skeleton(t, "mygo", KindProtocol, LangGo)
	tool(t, dir, nil, "go", "vet", "./...")
	tool(t, dir, nil, "go", "test", "./...")
	tool(t, dir, wasmEnv, "go", "build", "-buildmode=c-shared", "-o", "build/mygo.wasm", "./wasm")
	tool(t, dir, nil, "go", "build", "-o", "build/server", "./server/cmd")
	path, err := Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := Test(t.Context(), Options{Path: path, Server: "exec " + dir + "/build/server $SOCKET", Fuzz: time.Second / 2})
	passes(t, sum, err)
	if sum.Name != "mygo" || sum.NoServer > 0 {
		t.Errorf("%+v", sum)
	}
}

// The same plugin's main package for a process is a module of its own.
func TestSkeletonProcess(t *testing.T) {
	dir := skeleton(t, "mygo", KindProtocol, LangGo)
	tool(t, filepath.Join(dir, "process"), []string{"CGO_ENABLED=0"}, "go", "build", "-o", "../build/mygo.plugin", ".")
}

func TestSkeletonProtocolC(t *testing.T) {
	needs(t, "clang", "clang")
	needs(t, "wasm-ld", "lld")
	needs(t, "make", "make")
	needs(t, "cc", "gcc libc6-dev")
	dir := skeleton(t, "myc", KindProtocol, LangC)
	tool(t, dir, nil, "make", "ENGINE=true", "test")
	sum, err := Test(t.Context(), Options{Path: filepath.Join(dir, "build/myc.wasm"), Server: "exec " + dir + "/build/server $SOCKET", Fuzz: time.Second / 2})
	passes(t, sum, err)
	if sum.Name != "myc" || sum.NoServer > 0 {
		t.Errorf("%+v", sum)
	}
}

func TestSkeletonStore(t *testing.T) {
	needsSandbox(t)
	dir := skeleton(t, "mystore", KindStore, LangGo)
	tool(t, dir, nil, "go", "vet", "./...")
	tool(t, dir, nil, "go", "test", "./...")
	tool(t, dir, []string{"CGO_ENABLED=0"}, "go", "build", "-o", "build/mystore.plugin", ".")
	path, err := Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := Test(t.Context(), Options{Path: path, Values: []string{"size=16MiB"}})
	passes(t, sum, err)
	if sum.Kind != "store" || sum.Passed != 12 {
		t.Errorf("%+v", sum)
	}
	if _, err := Test(t.Context(), Options{Path: path}); err == nil {
		t.Error("a store without its required option is tried")
	}
}

func TestSkeletonRefuses(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]Skeleton{
		"not empty":  {Dir: full, Name: "a", Kind: KindProtocol, Lang: LangGo},
		"store in C": {Dir: t.TempDir(), Name: "a", Kind: KindStore, Lang: LangC},
		"kind":       {Dir: t.TempDir(), Name: "a", Kind: "disk", Lang: LangGo},
		"name":       {Dir: t.TempDir(), Name: "my-plugin", Kind: KindProtocol, Lang: LangGo},
	} {
		if _, err := s.Write(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if left, err := os.ReadDir(s.Dir); err == nil && len(left) > 1 {
			t.Errorf("%s: it left %v", name, left)
		}
	}
}
