package wasm

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"blockengine/engine/pluginhost/guest"
)

// helperSelf is the command under which the test binary is the helper.
var helperSelf = []string{"/proc/self/exe", "internal-compile"}

// tree lists the files below a directory.
func tree(tb testing.TB, dir string) []string {
	tb.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return files
}

func works(tb testing.TB, m *Module) {
	tb.Helper()
	if _, _, err := newInstance(tb, m).Call(0, guest.BudgetCall); err != nil {
		tb.Error(err)
	}
}

// TestHelperFillsTheCache: the second Load finds what the first one's helper
// compiled, under the same key, and compiles nothing.
func TestHelperFillsTheCache(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "new", "cache")
	works(t, module{}.load(t, func(o *Options) { o.CacheDir, o.Self = cache, helperSelf }))
	files := tree(t, cache)
	if len(files) != 2 {
		t.Fatalf("the cache holds %q", files)
	}
	if st, err := os.Stat(cache); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("cache directory: %v %v", st.Mode(), err)
	}
	noHelper := []string{"/nonexistent/helper"}
	works(t, module{}.load(t, func(o *Options) { o.CacheDir, o.Self = cache, noHelper }))
	if again := tree(t, cache); len(again) != 2 {
		t.Errorf("after the second load the cache holds %q", again)
	}
	// Another memory cap is another module.
	_, err := Load(context.Background(), Options{Path: module{}.file(t), CacheDir: cache, Self: noHelper})
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/helper") {
		t.Errorf("a module that is not in the cache: %v", err)
	}
}

// TestDamagedCache: truncated, overwritten, extended or half-removed entries
// are compiled again.
func TestDamagedCache(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	load := func() { works(t, module{}.load(t, func(o *Options) { o.CacheDir = cache })) }
	load()
	for _, file := range tree(t, cache) {
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for k := 0; k < len(good); k += max(1, len(good)/8) {
			flipped := bytes.Clone(good)
			flipped[k] ^= 0x10
			for _, bad := range [][]byte{flipped, good[:k], append(flipped, 1)} {
				if err := os.WriteFile(file, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				load()
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		load()
		if err := os.WriteFile(file+".tmp", good, 0o600); err != nil {
			t.Fatal(err)
		}
		load()
	}
	if files := tree(t, cache); len(files) != 2 {
		t.Errorf("the cache holds %q", files)
	}
}

// TestSealedGarbage: an entry whose seal fits and that wazero cannot read, as
// another release of it could leave.
func TestSealedGarbage(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	load := func() { works(t, module{}.load(t, func(o *Options) { o.CacheDir = cache })) }
	load()
	entries, err := filepath.Glob(filepath.Join(cache, "*"))
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	file, err := codeFile(entries[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("WAZEVOgarbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := seal(entries[0]); err != nil {
		t.Fatal(err)
	}
	load()
	if b, err := os.ReadFile(file); err != nil || len(b) < 100 {
		t.Errorf("the entry was not compiled again: %d bytes, %v", len(b), err)
	}
}

func TestCacheMustBePrivate(t *testing.T) {
	cache := t.TempDir()
	if err := os.Chmod(cache, 0o750); err != nil {
		t.Fatal(err)
	}
	_, err := Load(context.Background(), Options{Path: module{}.file(t), CacheDir: cache})
	if err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Error(err)
	}
}

// TestPrune: the least recently used entries go, and what was abandoned.
func TestPrune(t *testing.T) {
	dir := t.TempDir()
	name := func(k int) string { return filepath.Join(dir, strings.Repeat("0", 61)+strconv.Itoa(100+k)) }
	for k := range cacheEntries + 5 {
		at := time.Now().Add(-time.Duration(k) * time.Minute)
		if err := errors.Join(os.Mkdir(name(k), 0o700), os.Chtimes(name(k), at, at)); err != nil {
			t.Fatal(err)
		}
	}
	young, old := filepath.Join(dir, fillPrefix+"1"), filepath.Join(dir, fillPrefix+"2")
	long := time.Now().Add(-2 * fillAge)
	if err := errors.Join(os.Mkdir(young, 0o700), os.Mkdir(old, 0o700), os.Chtimes(old, long, long)); err != nil {
		t.Fatal(err)
	}
	oldest := name(cacheEntries + 4)
	cacheDir(dir).prune(oldest)
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }
	if !exists(oldest) || !exists(young) || exists(old) {
		t.Errorf("just used %v, being filled %v, abandoned %v", exists(oldest), exists(young), exists(old))
	}
	for k := range cacheEntries + 4 {
		if want := k < cacheEntries-1; exists(name(k)) != want {
			t.Errorf("entry %d: there %v, want %v", k, exists(name(k)), want)
		}
	}
}

// TestHelperReports: what is wrong with a module reaches the caller through
// the helper as it would from this process.
func TestHelperReports(t *testing.T) {
	invalid := module{call: ops(opDrop, constI32(0))}.bytes()
	for _, self := range [][]string{nil, helperSelf} {
		_, err := Load(context.Background(), Options{Path: writeModule(t, invalid), Self: self})
		if err == nil || !strings.Contains(err.Error(), "no valid WebAssembly module") {
			t.Errorf("helper %q: %v", self, err)
		}
	}
}

// TestHelperThatHangs: it is killed with the context and reaped.
func TestHelperThatHangs(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := Load(ctx, Options{Path: module{}.file(t), Self: []string{"/proc/self/exe", "internal-hang"}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	children, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children")
	if err == nil && len(bytes.TrimSpace(children)) > 0 {
		t.Errorf("children left: %s", children)
	}
}

func TestHelperThatFails(t *testing.T) {
	_, err := Load(context.Background(), Options{Path: module{}.file(t), Self: []string{"/bin/false"}})
	if err == nil || !strings.Contains(err.Error(), "/bin/false") {
		t.Error(err)
	}
}

func TestCompileMainRefusesWrongUse(t *testing.T) {
	var out bytes.Buffer
	if code := CompileMain(nil, strings.NewReader(""), &out); code != 2 || !strings.Contains(out.String(), "usage") {
		t.Errorf("%d %s", code, out.String())
	}
	for _, nice := range []string{"x", "-1", "20"} {
		out.Reset()
		if code := CompileMain([]string{t.TempDir(), "16777216", "", nice}, strings.NewReader(""), &out); code != 1 || !strings.Contains(out.String(), "nice") {
			t.Errorf("%d %s", code, out.String())
		}
	}
}
