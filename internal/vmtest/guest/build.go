package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Image is a guest that is ready to boot.
type Image struct {
	Kernel    string // path of the kernel
	Initramfs string // path of the initramfs, not compressed
	Release   string // the kernel's, as uname -r says it
}

// UnavailableError says that this machine cannot build the guest, and what
// would mend it; nothing is wrong with the project.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string { return e.Err.Error() }
func (e *UnavailableError) Unwrap() error { return e.Err }

// unused is how long an image that nobody boots stays in the cache; each has
// 100 MB.
const unused = 3 * 24 * time.Hour

// builder makes an image in the cache directory.
type builder struct {
	cache string
	log   func(format string, args ...any)
}

// Build gives the image of a guest with a kernel out of the user's cache
// directory, building what is not there. One process builds at a time, the others wait, all until ctx
// ends. log hears what takes time; nil is silence.
func Build(ctx context.Context, k Kernel, log func(format string, args ...any)) (Image, error) {
	o, err := originOf(k)
	if err != nil {
		return Image{}, err
	}
	if runtime.GOARCH != "amd64" {
		return Image{}, &UnavailableError{fmt.Errorf("the guest is x86-64 and takes its programs from this machine, which is %s", runtime.GOARCH)}
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return Image{}, &UnavailableError{fmt.Errorf("no place for the guest's image: %w", err)}
	}
	if log == nil {
		log = func(string, ...any) {}
	}
	return build(ctx, &o, filepath.Join(user, "blockengine", "guest"), log)
}

func build(ctx context.Context, o *origin, cache string, log func(string, ...any)) (Image, error) {
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return Image{}, err
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	b := &builder{cache, log}
	k, err := b.getKernel(ctx, o)
	if err != nil {
		return Image{}, err
	}
	in, err := b.gather(ctx)
	if err != nil {
		return Image{}, err
	}
	dir := filepath.Join(cache, "image-"+in.hash(filepath.Base(k.dir)))
	if err := b.ensure(ctx, k, in, dir); err != nil {
		return Image{}, err
	}
	b.prune(k.dir, dir)
	return Image{k.image(), filepath.Join(dir, "initramfs"), k.release}, nil
}

// ensure makes the image's directory, whole or not at all, unless it is there.
func (b *builder) ensure(ctx context.Context, k kernel, in inputs, dir string) error {
	now := time.Now()
	if os.Chtimes(dir, now, now) == nil { // there; and in use, for prune
		return nil
	}
	b.log("guest: building an initramfs for %s", k.release)
	tmp, err := os.MkdirTemp(b.cache, "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	stage := filepath.Join(tmp, "stage")
	if err := b.stageModules(ctx, k, stage); err != nil {
		return err
	}
	image := filepath.Join(tmp, "image")
	if err := os.Mkdir(image, 0o755); err != nil {
		return err
	}
	if err := in.write(filepath.Join(image, "initramfs"), stage); err != nil {
		return err
	}
	return os.Rename(image, dir)
}

// prune removes kernels and images that were not used for long, and what a
// killed build has left. It is called with the lock held.
func (b *builder) prune(keep ...string) {
	entries, _ := os.ReadDir(b.cache)
	now := time.Now()
	for _, dir := range keep {
		_ = os.Chtimes(dir, now, now)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() {
			continue
		}
		if now.Sub(info.ModTime()) > unused || strings.HasPrefix(e.Name(), "tmp-") {
			_ = os.RemoveAll(filepath.Join(b.cache, e.Name()))
		}
	}
}

// lock takes the lock file, which the kernel frees should this process die.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another process has built the guest's image for too long: lock %s: %w", path, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// run runs a program and gives its stdout; the error holds what it said.
func (b *builder) run(ctx context.Context, program string, args ...string) (string, error) {
	return b.runIn(ctx, "", program, args...)
}

func (b *builder) runIn(ctx context.Context, dir, program string, args ...string) (string, error) {
	path, err := find(program)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var out, said bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &said
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C", "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}
