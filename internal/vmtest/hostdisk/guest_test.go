package hostdisk_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"blockengine/internal/vmtest"
	vmguest "blockengine/internal/vmtest/guest"
)

// long is set for loads that take their time.
var long = os.Getenv("E2E_LONG") == "1"

// kind is one of the frontends that make devices of the guest.
type kind struct {
	frontend string
	module   string
	prefix   string // of the devices' names
	keys     string // lines of every [[export]]
	command  string // of the engine, for these devices
}

var (
	ublkKind = kind{"ublk", "ublk_drv", "ublkb", "queues = 2\n", "ublk"}
	kinds    = []kind{ublkKind, {"nbd-kernel", "nbd", "nbd", "connections = 2\n", "nbd-kernel"}}
)

// expected are what the kernel says of what tests do: the drivers' messages about
// servers that die, and errors of devices that were taken from under a load.
var expected = regexp.MustCompile(`^block nbd\d+: |^nbd: nbd\d+ already in use|^nbd: device at index|^ublk|` +
	`^(Buffer I/O|I/O|critical .*) error.*(nbd|ublkb)\d+`)

// checkLog fails the test if the guest's kernel has had troubles beyond those.
func (g *guest) checkLog() {
	g.t.Helper()
	for _, r := range vmtest.Troubles(g.Kmsg()) {
		if !expected.MatchString(r.Text) {
			g.t.Errorf("the guest's kernel says, at level %d: %s", r.Level, r.Text)
		}
	}
}

// programs are built once for the test process, outside of any test's directory.
var programs = sync.OnceValues(func() (map[string]string, error) {
	dir, err := os.MkdirTemp("", "hostdisk")
	if err != nil {
		return nil, err
	}
	files := map[string]string{"/usr/sbin/engine": filepath.Join(dir, "engine"),
		"/lib/nbd.wasm": filepath.Join(dir, "nbd.wasm"), "/lib/nbd2.wasm": filepath.Join(dir, "nbd2.wasm")}
	wasm := []string{"GOOS=wasip1", "GOARCH=wasm"}
	for _, b := range []struct {
		env  []string
		args []string
	}{
		{[]string{"CGO_ENABLED=0"}, []string{"-tags", "failpoint", "-o", files["/usr/sbin/engine"], "blockengine/engine"}},
		{wasm, []string{"-buildmode=c-shared", "-o", files["/lib/nbd.wasm"], "blockengine/plugins/nbd/wasm"}},
		{wasm, []string{"-buildmode=c-shared", "-ldflags=-s -w -X blockengine/plugins/nbd.Version=2.0.0", "-o", files["/lib/nbd2.wasm"], "blockengine/plugins/nbd/wasm"}},
	} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"}, b.args...)...)
		cmd.Env = append(os.Environ(), b.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build %v: %w\n%s", b.args, err, out)
		}
	}
	return files, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if files, err := builtPrograms(); err == nil && files != nil {
		os.RemoveAll(filepath.Dir(files["/usr/sbin/engine"]))
	}
	os.Exit(code)
}

// used says that programs has been called, so that TestMain builds nothing.
var used bool

func builtPrograms() (map[string]string, error) {
	if !used {
		return nil, nil
	}
	return programs()
}

// guest is a virtual machine whose kernel's devices the engine in it serves.
type guest struct {
	*vmtest.VM
	kind
	kernel vmguest.Kernel
	t      testing.TB
}

// waitLimit bounds every wait for a guest.
const waitLimit = 2 * time.Minute

// boot starts a guest that reaches this host as 10.0.2.2, with the engine and more
// files of this host. The frontends' modules are not loaded yet.
func boot(t *testing.T, k vmguest.Kernel, more map[string]string) *vmtest.VM {
	t.Helper()
	used = true
	files, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"/lib/engine.sh": "engine.sh"}
	for _, list := range []map[string]string{files, more} {
		for to, from := range list {
			all[to] = from
		}
	}
	vm := vmtest.Start(t, vmtest.Options{
		Kernel: k, Memory: 1024, Limit: waitLimit, Modules: []string{"virtio_net", "xfs"}, Files: all,
		Args: []string{"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="},
	})
	vm.MustRun(`
		ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up
		mkdir -p /etc && echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd && echo 'user:x:1000:1000:user:/tmp:/bin/sh' >>/etc/passwd`)
	return vm
}

// sh runs a command with the functions of engine.sh; it must succeed.
func (g *guest) sh(format string, args ...any) string {
	g.t.Helper()
	return g.MustRun(". /lib/engine.sh\n" + fmt.Sprintf(format, args...))
}

// fails runs a command that must not succeed, and gives what it said.
func (g *guest) fails(format string, args ...any) string {
	g.t.Helper()
	out, status := g.Run(g.t.Context(), ". /lib/engine.sh\n"+fmt.Sprintf(format, args...))
	if status == 0 {
		g.t.Errorf("in the guest: %s\nwas to fail, and said %s", fmt.Sprintf(format, args...), out)
	}
	return out
}

// dev is the name of a device.
func (g *guest) dev(n int) string { return fmt.Sprintf("%s%d", g.prefix, n) }

// load loads the frontend's module.
func (g *guest) load(parameters string) { g.sh("modprobe %s %s", g.module, parameters) }

// volume is a [[volume]] and, under the same name, the export.
type volume struct {
	name, plugin, options, more string
	server                      string // address of its path
	device                      int    // -1: the kernel's choice
	export                      string // more lines of [[export]]
	patience                    string // request_timeout of frontend nbd-kernel: its kernel looks at requests of a connection that is gone when their time is over
}

// file is a volume in a file of the guest's memory, as device n.
func file(name string, mib, n int) volume {
	return volume{name: name, plugin: "file", patience: "2s", options: fmt.Sprintf("path = \"/tmp/%s.img\"\nsize = \"%dMiB\"\n", name, mib),
		more: "timeout = \"1s\"\nfence = \"0s\"\n", device: n}
}

// configure writes the engine's file.
func (g *guest) configure(plugins string, volumes ...volume) {
	g.t.Helper()
	var b strings.Builder
	b.WriteString("[engine]\nstate_dir = \"/run/state\"\nhttp = \"\"\nreactors = 2\nlog_level = \"debug\"\n" + plugins)
	for _, v := range volumes {
		fmt.Fprintf(&b, "[[volume]]\nname = %q\nplugin = %q\n%s[volume.options]\n%s", v.name, v.plugin, v.more, v.options)
		if v.server != "" {
			fmt.Fprintf(&b, "[[volume.path]]\naddress = %q\n", v.server)
		}
		fmt.Fprintf(&b, "[[export]]\nname = %q\nvolume = %q\nfrontend = %q\n%s%s", v.name, v.name, g.frontend, g.keys, v.export)
		if g.frontend == "nbd-kernel" && v.patience != "" {
			fmt.Fprintf(&b, "request_timeout = %q\n", v.patience)
		}
		if v.device >= 0 {
			fmt.Fprintf(&b, "device = %d\n", v.device)
		}
	}
	g.sh("cat >/run/engine.toml <<'END'\n%s\nEND", b.String())
}

// none takes the engine and its devices away; a test's part leaves nothing.
func (g *guest) none() {
	g.t.Helper()
	g.sh(`
		if running; then engine_stop; fi
		for n in $(engine %s list -c /run/engine.toml --json | sed -n 's/^ *"number": *\([0-9]*\),*$/\1/p'); do
			engine %s delete -c /run/engine.toml $n
		done
		rm -rf /run/state /tmp/*.img /run/stop`, g.command, g.command)
}

// step runs a part of a test and says how long it took.
func (g *guest) step(name string, run func()) {
	g.t.Helper()
	began := time.Now()
	run()
	g.t.Logf("%-28s %6.1fs", name, time.Since(began).Seconds())
}

// fio is a load that verifies what it reads: two jobs write at random places of
// their own halves, flush now and then, and read all back.
func fio(target string, size string, more ...string) string {
	return "fio --name=verify --filename=" + target + " --thread --numjobs=2 --cpus_allowed=0-1 --cpus_allowed_policy=split" +
		" --direct=1 --ioengine=io_uring --iodepth=16 --rw=randwrite --bsrange=4k-32k --bs_unaligned=0 --randrepeat=0" +
		" --fsync=64 --end_fsync=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --size=" + size +
		" --offset_increment=" + size + " --minimal --output=/dev/null " + strings.Join(more, " ")
}
