// Package guest builds the small Linux systems that the VM tests boot: a kernel
// of Debian's ([Kernels] says which there are) and an initramfs with busybox,
// kernel modules, the programs of this host that the tests run, and the agent
// (internal/vmtest/agent).
//
// It knows nothing of QEMU or of tests. Where to read first: [Build].
//
// The kernel comes through apt, whose signatures vouch for it. Everything is
// kept in the user's cache directory, under a name that is a hash of all that
// went in, so a change of any input makes another image and two checkouts do
// not disturb each other.
package guest
