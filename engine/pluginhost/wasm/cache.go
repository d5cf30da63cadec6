package wasm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The cache holds a directory for each compiled module:
//
//	CACHE/KEY/wazero-VERSION-ARCH-OS/HASH   wazero's file: machine code
//	CACHE/KEY/seal                          SHA-256 of that file
//	CACHE/.fill-…                           being filled
//
// wazero runs what it finds in its file, so the file is compared with its seal
// before wazero opens it. A directory appears under its key in one step.
type cacheDir string

const (
	cacheFormat  = "blockengine compiled plugin 1"
	sealName     = "seal"
	fillPrefix   = ".fill-"
	cacheEntries = 32        // kept; the least recently used go first
	fillAge      = time.Hour // a directory being filled for so long is abandoned
)

// openCache makes the cache directory if need be and checks that it is
// private. done removes a cache that was made for one Load.
func openCache(dir string) (c cacheDir, done func(), err error) {
	if dir == "" {
		dir, err = os.MkdirTemp("", "blockengine-wasm-")
		if err != nil {
			return "", nil, fmt.Errorf("make a directory to compile in: %w", err)
		}
		return cacheDir(dir), func() { _ = os.RemoveAll(dir) }, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make the compilation cache: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return "", nil, fmt.Errorf("compilation cache: %w", err)
	}
	owner := int(st.Sys().(*syscall.Stat_t).Uid)
	if st.Mode().Perm()&0o077 != 0 || owner != os.Geteuid() {
		return "", nil, fmt.Errorf("compilation cache %s has mode %#o and owner %d: the engine runs the code in it, so it must be the engine's alone (chown %d, chmod 700)", dir, st.Mode().Perm(), owner, os.Geteuid())
	}
	return cacheDir(dir), func() {}, nil
}

// entry gives the directory with a module's compiled code, and calls fill when
// there is none or it is damaged.
func (c cacheDir) entry(p *prepared, fill func(dir string) error) (string, error) {
	path := filepath.Join(string(c), cacheKey(p))
	if sealed(path) == nil {
		now := time.Now()
		_ = os.Chtimes(path, now, now) // for prune
		return path, nil
	}
	tmp, err := os.MkdirTemp(string(c), fillPrefix)
	if err != nil {
		return "", fmt.Errorf("compilation cache: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := fill(tmp); err != nil {
		return "", err
	}
	if err := seal(tmp); err != nil {
		return "", fmt.Errorf("compilation cache: %w", err)
	}
	if err := c.publish(tmp, path); err != nil {
		return "", fmt.Errorf("compilation cache: %w", err)
	}
	c.prune(path)
	return path, nil
}

// publish gives a filled directory its name. Another engine may have been
// faster; what stands there then is as good, unless it is damaged.
func (c cacheDir) publish(tmp, path string) error {
	err := os.Rename(tmp, path)
	if err == nil || sealed(path) == nil {
		return nil
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// cacheKey names a module's entry. All that the machine code depends on goes
// into it: the module as it came, because only that was validated; the module
// as it is compiled, for a change of the meter or the memory cap; wazero; and
// the processor.
func cacheKey(p *prepared) string {
	h := sha256.New()
	rewritten := sha256.Sum256(p.rewritten)
	fmt.Fprintf(h, "%s\n%s\n%x\n%s\n%s %s\n%s\n", cacheFormat, p.src.hash, rewritten,
		wazeroVersion(), runtime.GOOS, runtime.GOARCH, processor())
	return hex.EncodeToString(h.Sum(nil))
}

var wazeroVersion = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, d := range info.Deps {
		if d.Path == "github.com/tetratelabs/wazero" {
			return d.Version + " " + d.Sum
		}
	}
	return "unknown"
})

// processor gives the features of the first processor, which wazero's code
// makes use of; "" where the kernel does not tell.
var processor = sync.OnceValue(func() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, 64<<10))
	for line := range bytes.Lines(b) {
		if name, _, ok := bytes.Cut(line, []byte(":")); ok {
			switch strings.TrimSpace(string(name)) {
			case "flags", "Features":
				return string(line)
			}
		}
	}
	return ""
})

// codeFile finds wazero's one file in an entry.
func codeFile(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "wazero-*", "*"))
	if err != nil {
		return "", err
	}
	if len(files) != 1 {
		return "", fmt.Errorf("%d files of compiled code in %s, 1 expected", len(files), dir)
	}
	return files[0], nil
}

func fileHash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// seal writes down the hash of an entry's code.
func seal(dir string) error {
	file, err := codeFile(dir)
	if err != nil {
		return err
	}
	sum, err := fileHash(file)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, sealName), []byte(sum), 0o600)
}

var errBroken = errors.New("the code does not match its seal")

// sealed says whether an entry is whole.
func sealed(dir string) error {
	want, err := os.ReadFile(filepath.Join(dir, sealName))
	if err != nil {
		return err
	}
	file, err := codeFile(dir)
	if err != nil {
		return err
	}
	have, err := fileHash(file)
	if err != nil {
		return err
	}
	if have != string(want) {
		return errBroken
	}
	return nil
}

// prune removes what was abandoned and the entries that were not used for the
// longest time. Code that is loaded does not need its file. What cannot be
// removed is left for the next time.
func (c cacheDir) prune(keep string) {
	list, err := os.ReadDir(string(c))
	if err != nil {
		return
	}
	type used struct {
		path string
		at   time.Time
	}
	var entries []used
	for _, e := range list {
		st, err := e.Info()
		path := filepath.Join(string(c), e.Name())
		switch {
		case err != nil || !st.IsDir() || path == keep:
		case strings.HasPrefix(e.Name(), fillPrefix):
			if time.Since(st.ModTime()) > fillAge {
				_ = os.RemoveAll(path)
			}
		case len(e.Name()) == 2*sha256.Size:
			entries = append(entries, used{path, st.ModTime()})
		}
	}
	slices.SortFunc(entries, func(a, b used) int { return b.at.Compare(a.at) })
	for k := cacheEntries - 1; k < len(entries); k++ {
		_ = os.RemoveAll(entries[k].path)
	}
}
