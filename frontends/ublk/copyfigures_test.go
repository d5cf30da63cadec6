package ublk_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"blockengine/frontends/ublk"
	"blockengine/internal/vmtest"
	vmguest "blockengine/internal/vmtest/guest"
)

// TestVMCopyFigures tells what the ways of copying cost the engine, in turns in one
// guest: CPU time of the whole process a request, with one queue at depth 64, the
// median of three. Under
// emulation nothing but the ratios means anything, so it judges nothing but that
// there are figures.
func TestVMCopyFigures(t *testing.T) {
	if os.Getenv("E2E_LONG") != "1" {
		t.Skip("figures take minutes: E2E_LONG=1 has them")
	}
	vm := guest(t, vmguest.Newest, serious)
	for _, disk := range []string{"-store memory -size 67108864", file(vm, "/run/disk", 64*mib) + " -io io_uring"} {
		all := []ublk.Copy{ublk.CopyKernel, ublk.CopyGetData, ublk.CopyUser}
		if strings.Contains(disk, "io_uring") {
			all = append(all, ublk.CopyZero)
			vm.MustRun("dd if=/dev/zero of=/run/disk bs=1M count=64 conv=notrunc 2>/dev/null")
		}
		for _, load := range []string{"randread 4k", "randwrite 4k", "randread 256k", "randwrite 256k"} {
			costs := map[ublk.Copy][]float64{}
			for range 3 {
				for _, way := range all {
					costs[way] = append(costs[way], figure(t, vm, disk, load, way))
				}
			}
			for _, way := range all {
				slices.Sort(costs[way])
				t.Logf("%.21s %-14s %-8v %7.1f us of CPU a request (%.1f)", disk, load, way, costs[way][1], costs[way])
			}
		}
	}
}

// figure runs a load for a moment and gives the µs of CPU time of a request.
func figure(t *testing.T, vm *vmtest.VM, disk, load string, way ublk.Copy) float64 {
	t.Helper()
	c := serve(t, vm, fmt.Sprintf("%s -copy %d", disk, way))
	kind, size, _ := strings.Cut(load, " ")
	out := vm.MustRun(fmt.Sprintf(`
		cpu() { set -- $(sed 's/.*) //' /proc/$(pidof serve)/stat); echo $((${12} + ${13})); }
		from=$(cpu)
		fio --name=r --filename=/dev/ublkb0 --direct=1 --ioengine=io_uring --rw=%s --bs=%s --iodepth=64 --time_based --runtime=1 --minimal --output=/run/fio.out >/dev/null
		echo "$(($(cpu) - from));$(grep '^3;' /run/fio.out)"`, kind, size))
	end(t, c, syscall.SIGUSR1)
	f := strings.Split(strings.TrimSpace(out), ";")
	if len(f) < 49 {
		t.Fatalf("fio says %q", out)
	}
	// Terse output, version 3, behind the ticks: KiB of reads 6, of writes 47.
	kib := f[6]
	if kind == "randwrite" {
		kib = f[47]
	}
	moved, _ := strconv.ParseFloat(kib, 64)
	each, _ := strconv.ParseFloat(strings.TrimSuffix(size, "k"), 64)
	ticks, err := strconv.ParseFloat(f[0], 64)
	if err != nil || moved == 0 {
		t.Fatalf("fio says %q", out)
	}
	return ticks * 10000 / (moved / each)
}
