package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"blockengine/sdk/abi"
)

// version is set by the build (-ldflags "-X main.version=1.2.3").
var version = "dev"

// build is what this program was made of.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the sources
	Modified bool   `json:"modified,omitempty"` // the sources were not that revision's alone
	Go       string `json:"go"`
	Platform string `json:"platform"`
	ABI      string `json:"plugin_abi"` // of protocol plugins
}

func thisBuild() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		ABI: abiText(abi.Version)}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// abiText writes a version of the plugin interface as MAJOR.MINOR.
func abiText(v uint32) string { return fmt.Sprintf("%d.%d", v>>16, v&0xffff) }

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Args: noArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			b := thisBuild()
			if asJSON {
				return printJSON(cmd.OutOrStdout(), b)
			}
			revision := b.Revision
			if b.Modified {
				revision += ", modified"
			}
			if revision != "" {
				revision = " (" + revision + ")"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "engine %s%s, plugin interface %s, %s %s\n",
				b.Version, revision, b.ABI, b.Go, b.Platform)
			return err
		})}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "print JSON")
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
