package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// known is an origin that must be there.
func known(t *testing.T, k Kernel) *origin {
	t.Helper()
	o, err := originOf(k)
	if err != nil {
		t.Fatal(err)
	}
	return &o
}

func TestNewestRelease(t *testing.T) {
	stable := `linux-image-6.12.9+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-6.12-cloud-amd64 - Linux for x86-64 cloud (meta-package)
linux-image-6.12.117+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-6.12.120+deb12-cloud-amd64-unsigned - Linux 6.12 for x86-64 cloud
linux-image-6.12.121+deb12-cloud-amd64-dbg - Debugging symbols
linux-image-6.1.130+deb12-cloud-amd64 - Linux 6.1
linux-image-6.12.20+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
`
	backports := `linux-binary-7.2.12+deb13-cloud-amd64 - Linux 7.2.12
linux-binary-6.19.14+deb13-cloud-amd64 - Binary for Linux 6.19.14 (signed)
linux-binary-7.10.1+deb13-cloud-amd64 - Linux 7.10.1
linux-binary-7.9.30+deb13-cloud-amd64 - Linux 7.9.30
linux-binary-unsigned-7.11.1+deb13-cloud-amd64 - Linux 7.11.1
linux-binary-7.10.2+deb13-amd64 - Linux 7.10.2 for 64-bit PCs
`
	for _, x := range []struct {
		kernel      Kernel
		names, want string
	}{
		{Stable, stable, "6.12.117+deb12-cloud-amd64"},
		{Stable, backports, ""},
		{Newest, backports, "7.10.1+deb13-cloud-amd64"},
		{Newest, stable, ""},
	} {
		o := known(t, x.kernel)
		if got := o.newest(o.named, x.names); got != x.want {
			t.Errorf("the newest %s is %q, want %q", x.kernel, got, x.want)
		}
	}
	if _, err := originOf("6.13"); err == nil || !strings.Contains(err.Error(), string(Newest)) {
		t.Errorf("a kernel that there is not: %v", err)
	}
}

// TestKernelBefore: without apt, the newest whole kernel of the right kind in the
// cache is taken.
func TestKernelBefore(t *testing.T) {
	b := &builder{cache: t.TempDir(), log: t.Logf}
	o := known(t, Stable)
	if k, ok := b.kernelBefore(o); ok {
		t.Errorf("an empty cache holds %+v", k)
	}
	for _, release := range []string{"6.12.9+deb12-cloud-amd64", "6.12.117+deb12-cloud-amd64", "6.12.20+deb12-cloud-amd64", "7.3.4+deb13-cloud-amd64"} {
		fakeKernel(t, filepath.Join(b.cache, dirPrefix+release), "lib/modules/"+release, "boot/vmlinuz-"+release)
	}
	k, ok := b.kernelBefore(o)
	if want := "6.12.117+deb12-cloud-amd64"; !ok || k.release != want {
		t.Errorf("got %q, %v, want %q", k.release, ok, want)
	}
	if k, ok := b.kernelBefore(known(t, Newest)); !ok || k.release != "7.3.4+deb13-cloud-amd64" {
		t.Errorf("of the other kind there is %q, %v", k.release, ok)
	}
	if err := os.RemoveAll(k.modules()); err != nil {
		t.Fatal(err)
	}
	if k, ok := unpacked(k.dir); ok {
		t.Errorf("half a kernel is taken for one: %+v", k)
	}
}

// fakeKernel makes what an unpacked package has: a directory of modules and an
// image.
func fakeKernel(t *testing.T, root, modules, image string) {
	t.Helper()
	for _, dir := range []string{modules, filepath.Dir(image)} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, image), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestArrange: both ways in which Debian packs a kernel are the same afterwards.
func TestArrange(t *testing.T) {
	const release = "7.3.4+deb13-cloud-amd64"
	for _, x := range [][2]string{
		{"lib/modules/" + release, "boot/vmlinuz-" + release},
		{"usr/lib/modules/" + release, "usr/lib/modules/" + release + "/vmlinuz"},
	} {
		root := t.TempDir()
		fakeKernel(t, root, x[0], x[1])
		if err := arrange(root, release); err != nil {
			t.Fatal(err)
		}
		if k, ok := unpacked(root); !ok || k.release != release {
			t.Errorf("with modules in %s there is %+v, %v", x[0], k, ok)
		}
	}
}

// TestUnreachable: without the archive a kernel that was unpacked before does, and
// without one it is said what is missing.
func TestUnreachable(t *testing.T) {
	for _, tool := range Tools[:3] {
		nbdtest.Require(t, tool.Program, tool.Package)
	}
	b := &builder{cache: t.TempDir(), log: t.Logf}
	o := known(t, Newest)
	o.sources = strings.Replace(o.sources, "http://deb.debian.org/debian", "http://127.0.0.1:9", 1) // port 9 discards
	_, err := b.getKernel(t.Context(), o)
	var unavailable *UnavailableError
	if !errors.As(err, &unavailable) || !strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(err.Error(), o.mend) {
		t.Errorf("without the archive: %v", err)
	}
	const release = "7.3.4+deb13-cloud-amd64"
	fakeKernel(t, filepath.Join(b.cache, dirPrefix+release), "lib/modules/"+release, "boot/vmlinuz-"+release)
	if k, err := b.getKernel(t.Context(), o); err != nil || k.release != release {
		t.Errorf("without the archive, and with a kernel: %+v, %v", k, err)
	}
}

func TestLibraries(t *testing.T) {
	got := libraries(`	linux-vdso.so.1 (0x00007ffd0000)
	libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f000)
	/lib64/ld-linux-x86-64.so.2 (0x00007f0001)
`)
	want := []string{"/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"}
	if !slices.Equal(got, want) {
		t.Errorf("libraries %q, want %q", got, want)
	}
}

func TestModuleFiles(t *testing.T) {
	deps := dependencies("k/a-b.ko.xz: k/c.ko.xz k/d.ko\nk/c.ko.xz: k/d.ko\nk/d.ko:\nk/e.ko.xz:\n")
	files, err := moduleFiles(deps, []string{"a_b", "c"})
	if want := []string{"k/a-b.ko.xz", "k/c.ko.xz", "k/d.ko"}; err != nil || !slices.Equal(files, want) {
		t.Errorf("files %q, %v, want %q", files, err, want)
	}
	if _, err := moduleFiles(deps, []string{"f"}); err == nil || !strings.Contains(err.Error(), "f") {
		t.Errorf("a module that is not there: %v", err)
	}
}

// TestHash: another image for another input, whichever it is.
func TestHash(t *testing.T) {
	base := func() inputs {
		return inputs{files: map[string][]byte{"/a": []byte("1"), "/b": []byte("2")}, applets: []string{"ls"}}
	}
	same := base().hash("k")
	if base().hash("k") != same {
		t.Error("equal inputs give other hashes")
	}
	seen := map[string]string{same: "nothing"}
	for what, change := range map[string]func(*inputs){
		"contents": func(in *inputs) { in.files["/a"] = []byte("3") },
		"names":    func(in *inputs) { in.files["/c"] = in.files["/a"]; delete(in.files, "/a") },
		"applets":  func(in *inputs) { in.applets = nil },
		"exchange": func(in *inputs) { in.files["/a"], in.files["/b"] = in.files["/b"], in.files["/a"] },
	} {
		in := base()
		change(&in)
		if other, twice := seen[in.hash("k")]; twice {
			t.Errorf("a change of %s makes the same image as one of %s", what, other)
		}
		seen[in.hash("k")] = what
	}
	if base().hash("l") == same {
		t.Error("another kernel makes the same image")
	}
}

// TestArchive has cpio unpack what we pack.
func TestArchive(t *testing.T) {
	nbdtest.Require(t, "cpio", "cpio")
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "archive"))
	if err != nil {
		t.Fatal(err)
	}
	a := newArchive(f)
	a.dir("empty/one")
	for n := range 9 { // all paddings, of names and of contents
		a.file("files/"+strings.Repeat("n", n+1), modeExec, []byte(strings.Repeat("x", n)))
	}
	a.link("links/to", "../files/n")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	nbdtest.MustRun(t, 0, "sh", "-c", fmt.Sprintf("cd %s && cpio --quiet -id <archive", dir))
	for n := range 9 {
		got, err := os.ReadFile(filepath.Join(dir, "files", strings.Repeat("n", n+1)))
		if err != nil || string(got) != strings.Repeat("x", n) {
			t.Errorf("file %d holds %q, %v", n, got, err)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "links/to")); err != nil || to != "../files/n" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "empty/one")); err != nil || !info.IsDir() {
		t.Errorf("the empty directory: %v", err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(ended, path); err == nil {
		t.Fatal("the lock was taken twice")
	}
	unlock()
	unlock, err = lock(t.Context(), path)
	if err != nil {
		t.Fatalf("the lock was given back: %v", err)
	}
	unlock()
}

// TestPrune: what nobody has used for long goes, and what a killed build left.
func TestPrune(t *testing.T) {
	b := &builder{cache: t.TempDir(), log: t.Logf}
	old := time.Now().Add(-2 * unused)
	for name, keeps := range map[string]bool{"image-old": false, "kernel-old": false, "image-new": true, "image-used": true, "tmp-1": false} {
		dir := filepath.Join(b.cache, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "-old") || name == "image-used" {
			os.Chtimes(dir, old, old)
		}
		defer func() {
			if _, err := os.Stat(dir); (err == nil) != keeps {
				t.Errorf("%s: kept %v, want %v", name, err == nil, keeps)
			}
		}()
	}
	b.prune(filepath.Join(b.cache, "image-used"))
}
