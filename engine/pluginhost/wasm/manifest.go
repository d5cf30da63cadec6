package wasm

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
	"blockengine/sdk/manifest"
)

const maxManifest = 64 << 10 // bytes of text

// parseManifest checks what be_manifest returned. version is what be_abi said.
func parseManifest(text []byte, version uint32) (manifest.Manifest, error) {
	var said guest.Said
	if !utf8.Valid(text) {
		return manifest.Manifest{}, fmt.Errorf("its manifest is not UTF-8")
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return manifest.Manifest{}, fmt.Errorf("its manifest is no JSON: %w", err)
	}
	if said.Kind != "protocol" {
		return manifest.Manifest{}, fmt.Errorf("its manifest says kind %.40q: the wasm runtime runs plugins of kind \"protocol\"", said.Kind)
	}
	return said.Manifest(version)
}

// checkABI compares the version that a plugin was built for with the engine's.
func checkABI(version uint32) error {
	if version>>16 == abi.Major {
		return nil
	}
	return fmt.Errorf("speaks version %s of the plugin interface and this engine speaks %d.%d: build it with the SDK of this engine's release", abiText(version), abi.Major, abi.Minor)
}

func abiText(version uint32) string { return fmt.Sprintf("%d.%d", version>>16, version&0xffff) }
