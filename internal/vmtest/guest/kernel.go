package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// kernelName matches the packages of Debian 12 with a 6.12 kernel for virtual
// machines; its group is the third number of the version.
var kernelName = regexp.MustCompile(`^linux-image-6\.12\.([0-9]+)\+deb12-cloud-amd64$`)

// kernel is an unpacked kernel package: dir holds boot/ and lib/modules/.
type kernel struct {
	dir     string
	release string // as uname -r says it
}

func (k kernel) image() string   { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.release) }
func (k kernel) modules() string { return filepath.Join(k.dir, "lib/modules", k.release) }

// newest gives the newest kernel package among names, "" if there is none.
func newest(names string) string {
	best, found := -1, ""
	for line := range strings.Lines(names) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		m := kernelName.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		if n, err := strconv.Atoi(m[1]); err == nil && n > best {
			best, found = n, name
		}
	}
	return found
}

// getKernel gives the newest kernel that apt knows, downloaded and unpacked once.
// Where apt knows none, or it cannot be had, one that was unpacked before does.
func (b *builder) getKernel(ctx context.Context) (kernel, error) {
	k, err := b.kernelOfApt(ctx)
	if err != nil && os.Geteuid() == 0 && ctx.Err() == nil {
		// The lists may be missing, or older than what the servers still have.
		b.log("guest: %v; fetching apt's lists", err)
		if _, err := b.run(ctx, "apt-get", "update", "-q"); err != nil {
			b.log("guest: %v", err)
		}
		k, err = b.kernelOfApt(ctx)
	}
	if err == nil {
		return k, nil
	}
	if k, ok := b.kernelBefore(); ok {
		b.log("guest: %v; going on with %s, which is here", err, k.release)
		return k, nil
	}
	return kernel{}, &UnavailableError{fmt.Errorf("no kernel for the guest: %w; on Debian 12, have its security "+
		"suite in /etc/apt/sources.list, run `apt-get update` as root, and try again", err)}
}

func (b *builder) kernelOfApt(ctx context.Context) (kernel, error) {
	names, err := b.run(ctx, "apt-cache", "search", "--names-only", "^linux-image-6.12.*cloud-amd64$")
	if err != nil {
		return kernel{}, err
	}
	name := newest(names)
	if name == "" {
		return kernel{}, errors.New("apt knows no package linux-image-6.12.*+deb12-cloud-amd64")
	}
	dir := filepath.Join(b.cache, "kernel-"+name)
	if k, ok := unpacked(dir); ok {
		return k, nil
	}
	if err := b.unpackKernel(ctx, name, dir); err != nil {
		return kernel{}, err
	}
	k, ok := unpacked(dir)
	if !ok {
		return kernel{}, fmt.Errorf("%s holds no kernel with modules", name)
	}
	return k, nil
}

// unpackKernel downloads a package and makes dir of it, whole or not at all.
func (b *builder) unpackKernel(ctx context.Context, name, dir string) error {
	tmp, err := os.MkdirTemp(b.cache, "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	b.log("guest: downloading %s", name)
	// apt checks the package against its signed lists; nothing may relax that.
	if _, err := b.runIn(ctx, tmp, "apt-get", "-q", "download",
		"-o", "APT::Get::AllowUnauthenticated=false", name); err != nil {
		return err
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download left %d packages", len(debs))
	}
	root := filepath.Join(tmp, "root")
	if _, err := b.run(ctx, "dpkg-deb", "-x", debs[0], root); err != nil {
		return err
	}
	k, ok := unpacked(root)
	if !ok {
		return fmt.Errorf("%s holds no kernel with modules", name)
	}
	// What the package's own script would have done after its installation.
	if _, err := b.run(ctx, "depmod", "-b", root, k.release); err != nil {
		return err
	}
	return os.Rename(root, dir)
}

// unpacked tells whether dir holds a kernel, and which.
func unpacked(dir string) (kernel, bool) {
	found, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if len(found) != 1 {
		return kernel{}, false
	}
	k := kernel{dir, strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")}
	info, err := os.Stat(k.modules())
	return k, err == nil && info.IsDir()
}

// kernelBefore gives the newest kernel that was unpacked before.
func (b *builder) kernelBefore() (kernel, bool) {
	dirs, _ := filepath.Glob(filepath.Join(b.cache, "kernel-*"))
	var names strings.Builder
	for _, dir := range dirs {
		fmt.Fprintln(&names, strings.TrimPrefix(filepath.Base(dir), "kernel-"))
	}
	name := newest(names.String())
	if name == "" {
		return kernel{}, false
	}
	return unpacked(filepath.Join(b.cache, "kernel-"+name))
}
