// Command guestimage builds the guests that the VM tests boot, unless they are in
// the user's cache directory, and prints the paths of their kernels and initramfs.
// Arguments are kernels; without any it builds all.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"blockengine/internal/vmtest/guest"
)

// limit is generous: downloads of 35 MB each are in it.
const limit = 10 * time.Minute

func main() {
	kernels := guest.Kernels
	if len(os.Args) > 1 {
		kernels = nil
		for _, name := range os.Args[1:] {
			kernels = append(kernels, guest.Kernel(name))
		}
	}
	failed := false
	for _, k := range kernels {
		if err := build(k); err != nil {
			fmt.Fprintln(os.Stderr, "guestimage:", err)
			failed = failed || matters(k, err)
		}
	}
	if failed {
		os.Exit(1)
	}
}

func build(k guest.Kernel) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	log := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	image, err := guest.Build(ctx, k, log)
	if err != nil {
		return err
	}
	fmt.Printf("%s: kernel    %s\n%s: initramfs %s\n", k, image.Kernel, k, image.Initramfs)
	return nil
}

// matters tells whether there is no testing without this guest: most tests are
// content with the stable kernel, and those that are not skip, but not where
// CI=true says that this machine has all that is needed.
func matters(k guest.Kernel, err error) bool {
	var unavailable *guest.UnavailableError
	return k == guest.Stable || os.Getenv("CI") == "true" || !errors.As(err, &unavailable)
}
