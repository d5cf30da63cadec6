package guest

import (
	_ "embed"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tool is a program of this host and the Debian package that it comes from.
type Tool struct{ Program, Package string }

// Tools are what [Build] runs.
var Tools = []Tool{
	{"apt-get", "apt"}, {"apt-cache", "apt"}, {"dpkg-deb", "dpkg"},
	{"depmod", "kmod"}, {"xz", "xz-utils"}, {"ldd", "libc-bin"},
	{"busybox", "busybox-static"}, {"go", "golang-go"},
}

// Programs are copied into the guest, with the libraries that they name.
var Programs = []Tool{
	{"dash", "dash"}, // busybox's shell takes its own applets before any program of that name
	{"fio", "fio"},
	{"mkfs.ext4", "e2fsprogs"}, {"fsck.ext4", "e2fsprogs"}, {"resize2fs", "e2fsprogs"},
	{"mkfs.xfs", "xfsprogs"}, {"xfs_repair", "xfsprogs"},
	{"sfdisk", "fdisk"},
	{"blkdiscard", "util-linux"}, {"fstrim", "util-linux"},
}

// Modules can be loaded in the guest; what they depend on comes with them. The
// kernel has virtio_pci, virtio_console, ext4 and io_uring built in.
var Modules = []string{
	"virtio_blk", "virtio_net", "xfs",
	"ublk_drv", "nbd", "loop",
	"nvmet_tcp", "nvme_tcp", "iscsi_target_mod", "target_core_file",
	"dm_flakey", "dm_log_writes", "sch_netem",
}

// initScript is process 1 of the guest.
//
//go:embed init.sh
var initScript []byte

// extraPath is where programs live that an ordinary user's PATH lacks.
var extraPath = []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/go/bin"}

// find gives the path of a program.
func find(program string) (string, error) {
	path, err := exec.LookPath(program)
	for i := 0; err != nil && i < len(extraPath); i++ {
		path, err = exec.LookPath(filepath.Join(extraPath[i], program))
	}
	if err != nil {
		return "", fmt.Errorf("%s is not installed", program)
	}
	return filepath.Abs(path)
}

// libraries gives the paths of the shared libraries that a program is linked
// with, the loader among them, under the names that the program asks for.
func libraries(ldd string) []string {
	var paths []string
	for line := range strings.Lines(ldd) {
		// "libm.so.6 => /lib/…/libm.so.6 (0x…)", "/lib64/ld-….so.2 (0x…)" or,
		// without a file, "linux-vdso.so.1 (0x…)".
		for _, field := range strings.Fields(line) {
			if filepath.IsAbs(field) {
				paths = append(paths, field)
				break
			}
		}
	}
	return paths
}
