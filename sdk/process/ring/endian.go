//go:build !(386 || amd64 || arm || arm64 || loong64 || mipsle || mips64le || ppc64le || riscv64 || wasm)

package ring

// The structs of this package are laid over shared memory in place.
var _ = this_package_needs_a_little_endian_machine
