// Command guestimage builds the guest that the VM tests boot, if it is not in
// the user's cache directory, and prints the paths of its kernel and initramfs.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"blockengine/internal/vmtest/guest"
)

// limit is generous: a download of 35 MB is in it.
const limit = 10 * time.Minute

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	log := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	image, err := guest.Build(ctx, log)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guestimage:", err)
		os.Exit(1)
	}
	fmt.Printf("kernel    %s\ninitramfs %s\n", image.Kernel, image.Initramfs)
}
