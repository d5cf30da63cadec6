package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kernel is an unpacked kernel: dir holds boot/ and lib/modules/.
type kernel struct {
	dir     string
	release string // as uname -r says it
}

func (k kernel) image() string   { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.release) }
func (k kernel) modules() string { return filepath.Join(k.dir, "lib/modules", k.release) }

// dirPrefix is what directories of kernels in the cache are called, before the
// release.
const dirPrefix = "kernel-"

var errStale = errors.New("the lists of packages are not there, or old")

// getKernel gives the newest kernel that the origin has, downloaded and unpacked
// once. Where apt knows none, or it cannot be had, one that was unpacked before
// does.
func (b *builder) getKernel(ctx context.Context, o *origin) (kernel, error) {
	apt, err := o.apt(b.cache)
	if err != nil {
		return kernel{}, err
	}
	k, err := kernel{}, errStale
	if !o.stale(b.cache) {
		k, err = b.kernelOfApt(ctx, o, apt)
	}
	if err != nil && o.mayFetch() && ctx.Err() == nil {
		// The lists may be missing, or older than what the servers still have.
		b.log("guest: kernel %q: %v; fetching apt's lists", o.kernel, err)
		unreachable := b.fetchLists(ctx, o, apt)
		if k, err = b.kernelOfApt(ctx, o, apt); err != nil && unreachable != nil {
			err = unreachable
		}
	}
	if err == nil {
		return k, nil
	}
	if k, ok := b.kernelBefore(o); ok {
		b.log("guest: %v; going on with %s, which is here", err, k.release)
		return k, nil
	}
	return kernel{}, &UnavailableError{fmt.Errorf("no kernel %q for the guest: %w; %s", o.kernel, err, o.mend)}
}

// fetchLists has apt fetch the lists of packages. Unless it is told so, apt is
// content with what it had.
func (b *builder) fetchLists(ctx context.Context, o *origin, apt []string) error {
	if o.sources == "" {
		_, err := b.run(ctx, "apt-get", "update", "-q")
		return err
	}
	if _, err := b.run(ctx, "apt-get", slices.Concat(apt, []string{"-q", "-o", "APT::Update::Error-Mode=any", "update"})...); err != nil {
		return err
	}
	return os.WriteFile(o.stamp(b.cache), nil, 0o600)
}

func (b *builder) kernelOfApt(ctx context.Context, o *origin, apt []string) (kernel, error) {
	names, err := b.run(ctx, "apt-cache", slices.Concat(apt, []string{"search", "--names-only", "^" + o.named + ".*cloud-amd64$"})...)
	if err != nil {
		return kernel{}, err
	}
	release := o.newest(o.named, names)
	if release == "" {
		return kernel{}, fmt.Errorf("apt knows no package %s… with a release like %s", o.named, o.release)
	}
	dir := filepath.Join(b.cache, dirPrefix+release)
	if k, ok := unpacked(dir); ok {
		return k, nil
	}
	if err := b.unpackKernel(ctx, o, apt, release, dir); err != nil {
		return kernel{}, err
	}
	k, _ := unpacked(dir)
	return k, nil
}

// unpackKernel downloads a kernel's packages and makes dir of them, whole or not
// at all.
func (b *builder) unpackKernel(ctx context.Context, o *origin, apt []string, release, dir string) error {
	tmp, err := os.MkdirTemp(b.cache, "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	b.log("guest: downloading Linux %s", release)
	// apt checks packages against its signed lists; nothing may relax that.
	args := slices.Concat(apt, []string{"-q", "-o", "APT::Get::AllowUnauthenticated=false", "download"})
	for _, p := range o.packages {
		args = append(args, p+release)
	}
	if _, err := b.runIn(ctx, tmp, "apt-get", args...); err != nil {
		return err
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != len(o.packages) {
		return fmt.Errorf("apt-get download left %d packages, not %d", len(debs), len(o.packages))
	}
	root := filepath.Join(tmp, "root")
	for _, deb := range debs {
		if _, err := b.run(ctx, "dpkg-deb", "-x", deb, root); err != nil {
			return err
		}
	}
	if err := arrange(root, release); err != nil {
		return err
	}
	k, ok := unpacked(root)
	if !ok || k.release != release {
		return fmt.Errorf("the packages of Linux %s hold no kernel with modules", release)
	}
	// What a package's own script would have done after its installation.
	if _, err := b.run(ctx, "depmod", "-b", root, release); err != nil {
		return err
	}
	return os.Rename(root, dir)
}

// arrange brings what Debian 13 packs below usr/lib/modules to where Debian 12
// has it.
func arrange(root, release string) error {
	merged := filepath.Join(root, "usr/lib/modules")
	if _, err := os.Stat(merged); err != nil {
		return nil
	}
	for _, dir := range []string{"lib", "boot"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Rename(merged, filepath.Join(root, "lib/modules")); err != nil {
		return err
	}
	k := kernel{root, release}
	return os.Rename(filepath.Join(k.modules(), "vmlinuz"), k.image())
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

// kernelBefore gives the newest kernel of the origin that was unpacked before.
func (b *builder) kernelBefore(o *origin) (kernel, bool) {
	dirs, _ := filepath.Glob(filepath.Join(b.cache, dirPrefix+"*"))
	var names strings.Builder
	for _, dir := range dirs {
		fmt.Fprintln(&names, filepath.Base(dir))
	}
	release := o.newest(dirPrefix, names.String())
	if release == "" {
		return kernel{}, false
	}
	return unpacked(filepath.Join(b.cache, dirPrefix+release))
}
