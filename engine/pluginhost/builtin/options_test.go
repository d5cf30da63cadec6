package builtin

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"blockengine/sdk/store"
)

// TestOpenErrors: each bad option gives an error that names the volume, the
// thing, and the remedy, and leaves nothing behind.
func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string]string{"full": strings.Repeat("x", 5000), "empty": ""} {
		if err := os.WriteFile(at(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(o store.Options, change func(*store.Options)) store.Options {
		change(&o)
		return o
	}
	readOnly := func(o *store.Options) { o.ReadOnly = true }
	workers := func(n uint64) func(*store.Options) { return func(o *store.Options) { o.Sizes["workers"] = n } }
	for _, tc := range []struct {
		name  string
		p     store.Plugin
		o     store.Options
		words []string
	}{
		{"null without size", Null(), sizeOptions(0), []string{"size", "1GiB"}},
		{"null too large", Null(), sizeOptions(1 << 60), []string{"size", "smaller"}},
		{"memory without size", Memory(), sizeOptions(0), []string{"size", "1GiB"}},
		{"memory too large", Memory(), sizeOptions(1<<46 + 1), []string{"size", "smaller"}},
		{"no path", File(), fileOptions("", 0), []string{"path", "give"}},
		{"no file", File(), fileOptions(at("none"), 0), []string{at("none"), "does not exist", "give a size"}},
		{"no file, read-only", File(), with(fileOptions(at("none"), 4096), readOnly), []string{"does not exist", "read_only"}},
		{"no folder", File(), fileOptions(at("no/such"), 4096), []string{"no/such"}},
		{"empty file", File(), fileOptions(at("empty"), 0), []string{"is empty", "give a size"}},
		{"shrink", File(), fileOptions(at("full"), 4096), []string{"5000", "4096", "remove the option size"}},
		{"extend read-only", File(), with(fileOptions(at("full"), 8192), readOnly), []string{"read_only", "remove"}},
		{"size too large", File(), fileOptions(at("new"), 1<<60), []string{"out of range"}},
		{"folder", File(), fileOptions(dir, 4096), []string{"directory", "block device"}},
		{"pipe", File(), fileOptions(at("fifo"), 4096), []string{"named pipe"}},
		{"character device", File(), fileOptions("/dev/null", 4096), []string{"character device"}},
		{"no workers", File(), with(fileOptions(at("full"), 0), workers(0)), []string{"workers", "1 to 64"}},
		{"too many workers", File(), with(fileOptions(at("full"), 0), workers(65)), []string{"workers", "1 to 64"}},
		{"no way", File(), with(fileOptions(at("full"), 0), func(o *store.Options) { o.Strings["io"] = "fast" }), []string{"io", "fast", "auto", "threads", "io_uring"}},
		{"odd size for direct", File(), with(fileOptions(at("full"), 0), func(o *store.Options) { o.Bools["direct"] = true }), []string{"5000", "multiple", "direct"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			_, err := tc.p.Open(context.Background(), tc.o)
			if err == nil {
				t.Fatal("it was opened")
			}
			for _, w := range append(tc.words, `volume "test"`, "plugin "+tc.p.Manifest().Name) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q: %v", w, err)
				}
			}
		})
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 3 {
		t.Errorf("the folder holds %v (%v), want what was there before", names, err)
	}
}

// TestExtend: a larger size extends the file and keeps what it holds.
func TestExtend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := openDisk(t, File(), fileOptions(path, 1<<20))
	if d.info.Size != 1<<20 || string(d.read(0, 8)) != "content\x00" {
		t.Errorf("size is %d, content %q", d.info.Size, d.read(0, 8))
	}
}

// TestFailedCreation: a file that was made for a disk that cannot be opened
// after all is taken away again.
func TestFailedCreation(t *testing.T) {
	checkLeaks(t)
	path := filepath.Join(t.TempDir(), "disk")
	o := fileOptions(path, 12345) // no multiple of any sector
	o.Bools["direct"] = true
	if _, err := File().Open(context.Background(), o); err == nil {
		t.Fatal("it was opened")
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the new file was left behind (%v)", err)
	}
}

// TestManifests: every plugin and option has a name and a help, once.
func TestManifests(t *testing.T) {
	for _, p := range []store.Plugin{Null(), Memory(), File()} {
		m := p.Manifest()
		if m.Name == "" || m.Version == "" {
			t.Errorf("manifest %+v", m)
		}
		seen := map[string]bool{}
		for _, o := range m.Options {
			if o.Help == "" || seen[o.Name] {
				t.Errorf("%s: option %+v", m.Name, o)
			}
			seen[o.Name] = true
		}
	}
}
