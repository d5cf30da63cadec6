package e2e_test

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vhosttest"
)

// growingEngine runs two volumes on one teststore, in files of their own: "disk",
// which a machine has, and "net", for NBD.
func growingEngine(t *testing.T, watch bool) (e *engine, disk, net string) {
	t.Helper()
	disk, line, options := storeImage(t)
	net = disk + "-net"
	must(t, os.WriteFile(net, nil, 0o666))
	must(t, os.Chmod(net, 0o666))
	must(t, os.Truncate(net, diskSize))
	if watch {
		options += "\nwatch = true"
	}
	more := trusting("30s", "1s")
	e = startEngine(t, config{engine: "reactors = 2\n" + section("store", builtPrograms(t).store, line),
		volumes: []volume{{name: "disk", plugin: "store", options: options, more: more, vhost: 2},
			{name: "net", plugin: "store", options: strings.Replace(options, disk, net, 1), more: more}}})
	e.waitUp("disk")
	e.waitUp("net")
	return e, disk, net
}

// rescan orders a look at a volume, and gives what was said.
func (e *engine) rescan(volume string) (string, error) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), orderLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, built.engine, "volume", "rescan", volume, "-c", e.file).CombinedOutput()
	return string(out), err
}

// TestStoreGrows: a disk in a process grows again and again under load, and says so
// or is looked at. The machine is told, a client that connects sees the size, what
// is new can be written, and no request fails.
func TestStoreGrows(t *testing.T) {
	for name, watch := range map[string]bool{"by itself": true, "when it is looked at": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, disk, net := growingEngine(t, watch)
			f := e.openMachine(e.machine(vhosttest.QEMU(), 2)) // Cloud Hypervisor cannot be told of a change
			l := startVhostLoad(t, e, vhosttest.LoadOptions{Frontend: f, Depth: 16, ReadPercent: 50, FlushEvery: 50,
				Verify: true, Length: 8 << 20, Seed: rand.Uint64()})
			l.goesOn(200)
			ctx, cancel := context.WithTimeout(context.Background(), vhostLimit)
			defer cancel()
			size := int64(diskSize)
			for range 4 {
				size += 1 << 20
				for volume, file := range map[string]string{"disk": disk, "net": net} {
					must(t, os.Truncate(file, size))
					if !watch {
						if out, err := e.rescan(volume); err != nil {
							t.Fatalf("%v: %s", err, out)
						}
					}
				}
				must(t, f.ConfigChanged(ctx))
				nbdtest.WaitFor(t, "both volumes to have grown", func() bool {
					return e.volume("disk").Size == uint64(size) && e.volume("net").Size == uint64(size)
				})
				l.goesOn(200)
				c := e.dial("net", nbdtest.Options{})
				if c.Info.Size != uint64(size) {
					t.Errorf("a client sees %d bytes of %d", c.Info.Size, size)
				}
				data := random(4096, uint64(size))
				must(t, c.Write(uint64(size)-4096, data, 0))
				mustRead(t, c, uint64(size)-4096, data)
			}
			l.end()
			for _, volume := range []string{"disk", "net"} {
				if v := e.volume(volume); len(v.Errors) != 0 || v.Session.Losses != 0 {
					t.Errorf("%s: errors %v, %+v", volume, v.Errors, *v.Session)
				}
			}
		})
	}
}

// TestStoreShrinks: a disk that is smaller than it was stops its volume, says why,
// and leaves the other volume of the same process alone.
func TestStoreShrinks(t *testing.T) {
	t.Parallel()
	e, disk, _ := growingEngine(t, false)
	must(t, os.Truncate(disk, diskSize/2))
	out, err := e.rescan("disk")
	if err == nil || !strings.Contains(out, "the disk has shrunk from") || !strings.Contains(out, "stopped") {
		t.Errorf("%v: %s", err, out)
	}
	e.waitState("disk", "stopped")
	c := e.dial("net", nbdtest.Options{})
	must(t, c.Write(0, random(4096, 1), 0))
	for _, name := range []string{"disk", "nobody"} {
		if out, err := e.rescan(name); err == nil {
			t.Errorf("%s can be looked at: %s", name, out)
		}
	}
}
