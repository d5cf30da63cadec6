package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// diskSize of the disks that stock clients are tried on.
const diskSize = 64 << 20

// backing is something that a volume can stand on.
type backing struct {
	name   string
	image  string // the file behind it, "" if there is none
	direct string // URI of the server itself, "" if there is none
	volume volume
}

// backings starts everything that a volume can stand on: builtin stores, and
// stock servers through the wasm plugin.
func backings(t *testing.T) []backing {
	t.Helper()
	fileImage := nbdtest.Image(t, diskSize, nil)
	list := []backing{
		{name: "file", image: fileImage, volume: volume{plugin: "file", options: fmt.Sprintf("path = %q", fileImage)}},
		{name: "memory", volume: volume{plugin: "memory", options: fmt.Sprintf("size = %d", diskSize)}},
	}
	add := func(name, image string, r *nbdtest.Real, export string) {
		options := ""
		if export != "" {
			options = fmt.Sprintf("export = %q", export)
		}
		list = append(list, backing{name: name, image: image, direct: r.URI(export),
			volume: volume{plugin: "nbd", server: "unix:" + r.Addr(), options: options, more: trusting("20s", "1s")}})
	}
	add("nbdkit-memory", "", nbdtest.StartNbdkit(t, "memory", fmt.Sprint(diskSize)), "")
	image := nbdtest.Image(t, diskSize, nil)
	add("nbdkit-file", image, nbdtest.StartNbdkit(t, "file", image), "")
	image = nbdtest.Image(t, diskSize, nil)
	add("qemu-nbd", image, nbdtest.StartQemuNBD(t, image), "")
	image = nbdtest.Image(t, diskSize, nil)
	add("qsd", image, nbdtest.StartQSD(t, image), "disk")
	for i := range list {
		list[i].volume.name = list[i].name
	}
	return list
}

// TestStockClients: what others wrote agrees with every kind of volume, bit for
// bit.
func TestStockClients(t *testing.T) {
	list := backings(t)
	c := config{}
	for _, b := range list {
		c.volumes = append(c.volumes, b.volume)
	}
	e := startEngine(t, c)
	t.Run("list", func(t *testing.T) {
		seen := map[string]bool{}
		for _, x := range nbdtest.Nbdinfo(t, e.uri(""), "--list") {
			seen[x.Name] = true
			if x.Size != diskSize || x.ReadOnly || !x.Flush || !x.FUA || !x.Trim || !x.Zero || !x.DF || !x.Cache {
				t.Errorf("%+v", x)
			}
		}
		if len(seen) != len(list) {
			t.Errorf("%d exports, want %d: %v", len(seen), len(list), seen)
		}
	})
	for _, b := range list {
		t.Run(b.name, func(t *testing.T) {
			t.Run("fio", func(t *testing.T) { fioVerify(t, e.uri(b.name)) })
			t.Run("copy", func(t *testing.T) { copies(t, e, b) })
			t.Run("convert", func(t *testing.T) { converts(t, e, b) })
			t.Run("qemu-io", func(t *testing.T) { qemuIO(t, e.uri(b.name)) })
		})
	}
}

// fioVerify writes and reads back blocks of mixed sizes, 32 at a time.
func fioVerify(t *testing.T, uri string, more ...string) nbdtest.FioResult {
	t.Helper()
	args := append([]string{"--rw=randrw", "--bsrange=512-256k", "--blockalign=512", "--iodepth=32", "--size=16M",
		"--verify=crc32c", "--verify_fatal=1", "--randrepeat=0", "--norandommap=0"}, more...)
	r := nbdtest.Fio(t, 2*time.Minute, uri, args...)
	if r.Errors != 0 || r.WriteIOs == 0 || r.ReadIOs == 0 {
		t.Errorf("fio: %d errors, %d writes, %d reads", r.Errors, r.WriteIOs, r.ReadIOs)
	}
	return r
}

// sparse makes an image with data, holes and zeroes that are allocated.
func sparse(t *testing.T, seed uint64) string {
	t.Helper()
	path := nbdtest.Image(t, diskSize, random(1<<20, seed))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for i := range 8 {
		_, err = f.WriteAt(random(384<<10, seed+uint64(i)+1), int64(4+i*7)<<20)
		must(t, err)
	}
	_, err = f.WriteAt(random(4096, seed+20), diskSize-4096)
	must(t, err)
	return path
}

// allocated is what a file takes on its disk, in bytes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Stat(path, &st))
	return st.Blocks * 512
}

// copies has nbdcopy carry an image in and out again.
func copies(t *testing.T, e *engine, b backing) {
	src := sparse(t, 100)
	nbdtest.MustRun(t, 0, "nbdcopy", src, e.uri(b.name))
	compare(t, src, e.uri(b.name))
	wantHoles(t, e, b, src)
	out := filepath.Join(t.TempDir(), "out.img")
	nbdtest.MustRun(t, 0, "nbdcopy", e.uri(b.name), out)
	sameFiles(t, src, out)
	if a, o := allocated(t, src), allocated(t, out); o > a+a/2 {
		t.Errorf("holes did not stay holes on the way out: %d bytes allocated of %d", o, a)
	}
}

// converts has qemu-img carry an image in and out again.
func converts(t *testing.T, e *engine, b backing) {
	src := sparse(t, 200)
	nbdtest.MustRun(t, 0, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", src, e.uri(b.name))
	compare(t, src, e.uri(b.name))
	wantHoles(t, e, b, src)
	out := filepath.Join(t.TempDir(), "out.img")
	nbdtest.MustRun(t, 0, "qemu-img", "convert", "-f", "raw", "-O", "raw", e.uri(b.name), out)
	sameFiles(t, src, out)
	if a, o := allocated(t, src), allocated(t, out); o > a+a/2 {
		t.Errorf("holes did not stay holes on the way out: %d bytes allocated of %d", o, a)
	}
}

func compare(t *testing.T, a, b string) {
	t.Helper()
	out := nbdtest.MustRun(t, 0, "qemu-img", "compare", "-f", "raw", "-F", "raw", a, b)
	if !strings.Contains(out, "Images are identical") {
		t.Errorf("qemu-img compare: %s", out)
	}
}

func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	must(t, err)
	y, err := os.ReadFile(b)
	must(t, err)
	if len(x) != len(y) {
		t.Fatalf("%d bytes, want %d", len(y), len(x))
	}
	if i := differ(x, y); i >= 0 {
		t.Fatalf("the copies differ from byte %d on", i)
	}
}

// wantHoles compares the allocation as seen through the engine with what the
// server itself says, and with what the image takes.
func wantHoles(t *testing.T, e *engine, b backing, src string) {
	t.Helper()
	through := allocation(t, e.uri(b.name))
	if !strings.Contains(through, "hole") {
		t.Errorf("no holes are seen:\n%s", through)
	}
	// qemu-nbd admits one client, which is the engine.
	if b.direct != "" && b.name != "qemu-nbd" {
		if want := allocation(t, b.direct); through != want {
			t.Errorf("the map through the engine:\n%s\nthe server's own:\n%s", through, want)
		}
	}
	if b.image != "" {
		if got, want := allocated(t, b.image), allocated(t, src); got > want+want/2 {
			t.Errorf("holes did not stay holes: the server's image takes %d bytes, its source %d", got, want)
		}
	}
}

// allocation is base:allocation in nbdinfo's words, with neighbours of one kind
// merged: servers may cut extents where they like.
func allocation(t *testing.T, uri string) string {
	t.Helper()
	var b strings.Builder
	var from, to uint64
	last := ""
	flush := func() {
		if last != "" {
			fmt.Fprintf(&b, "%d-%d %s\n", from, to, last)
		}
	}
	for line := range strings.Lines(nbdtest.MustRun(t, 0, "nbdinfo", "--map", uri)) {
		var off, n uint64
		var kind int
		var word string
		if _, err := fmt.Sscan(line, &off, &n, &kind, &word); err != nil {
			t.Fatalf("nbdinfo --map said %q: %v", line, err)
		}
		if word == last && off == to {
			to += n
			continue
		}
		flush()
		from, to, last = off, off+n, word
	}
	flush()
	if to != diskSize {
		t.Fatalf("the map ends at %d, want %d", to, uint64(diskSize))
	}
	return b.String()
}

// qemuIO reads, writes, zeroes, discards and flushes with patterns that qemu-io
// checks itself.
func qemuIO(t *testing.T, uri string) {
	t.Helper()
	nbdtest.MustRun(t, 0, "qemu-io", "-f", "raw", uri,
		"-c", "write -P 0xa1 0 1M", "-c", "read -P 0xa1 0 1M",
		"-c", "write -P 0xb2 4096 512", "-c", "read -P 0xb2 4096 512", "-c", "read -P 0xa1 4608 512",
		"-c", "write -z 64k 128k", "-c", "read -P 0 64k 128k",
		"-c", "write -z -u 256k 64k", "-c", "read -P 0 256k 64k",
		"-c", "write -f -P 0xc3 512k 64k", "-c", "read -P 0xc3 512k 64k",
		"-c", "discard 768k 128k", "-c", "read -P 0xa1 704k 64k", "-c", "read -P 0xa1 896k 128k",
		"-c", "aio_write -P 0xd4 2M 4M", "-c", "aio_flush", "-c", "read -P 0xd4 2M 4M",
		"-c", "flush")
}
