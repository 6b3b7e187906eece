package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/distribution/reference"
)

// image OUT NAME [-layer TAR | FILE=PATH…] writes a container image without a daemon or a registry: an OCI image
// layout as one tar. Its one layer is the tar given, or holds the files given; the first of them is the entry point.
func image(arguments []string) error {
	if len(arguments) < 3 {
		return errors.New("usage: image OUT NAME [-layer TAR | FILE=PATH…]")
	}
	out, name, rest := arguments[0], arguments[1], arguments[2:]
	settings := map[string]any{"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"}}
	var layer string
	if rest[0] == "-layer" && len(rest) == 2 {
		layer = rest[1]
	} else {
		layer = out + ".layer"
		defer os.Remove(layer)
		if err := pack(layer, rest); err != nil {
			return err
		}
		_, entry, _ := strings.Cut(rest[0], "=")
		settings["Entrypoint"] = []string{entry}
		settings["User"] = "65532:65532"
	}
	return layout(out, name, layer, settings)
}

// pack writes a tar with the files, owned by root and with a fixed time, so that the same files make the same image.
func pack(out string, files []string) error {
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := tar.NewWriter(file)
	for _, pair := range files {
		from, to, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q is not FILE=PATH", pair)
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		header := &tar.Header{Name: strings.TrimPrefix(path.Clean(to), "/"), Mode: 0o755, Size: int64(len(content))}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}

// layout writes the image as https://github.com/opencontainers/image-spec/blob/main/image-layout.md describes it.
func layout(out, name, layer string, settings map[string]any) error {
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := tar.NewWriter(file)
	blob := func(kind string, content []byte) (map[string]any, error) {
		sum := sha256.Sum256(content)
		digest := hex.EncodeToString(sum[:])
		described := map[string]any{"mediaType": kind, "digest": "sha256:" + digest, "size": len(content)}
		return described, put(archive, "blobs/sha256/"+digest, int64(len(content)), bytes.NewReader(content))
	}

	data, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer data.Close()
	hash := sha256.New()
	length, err := io.Copy(hash, data)
	if err != nil {
		return err
	}
	if _, err := data.Seek(0, io.SeekStart); err != nil {
		return err
	}
	digest := hex.EncodeToString(hash.Sum(nil))
	if err := put(archive, "blobs/sha256/"+digest, length, data); err != nil {
		return err
	}
	config, err := blob("application/vnd.oci.image.config.v1+json", encode(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": settings,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
	}))
	if err != nil {
		return err
	}
	manifest, err := blob("application/vnd.oci.image.manifest.v1+json", encode(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
		"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:" + digest, "size": length}},
	}))
	if err != nil {
		return err
	}
	// A kubelet looks for the name in full, whatever a pod says.
	full, err := reference.ParseDockerRef(name)
	if err != nil {
		return err
	}
	manifest["annotations"] = map[string]any{"io.containerd.image.name": full.String()}
	index := encode(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}})
	if err := put(archive, "index.json", int64(len(index)), bytes.NewReader(index)); err != nil {
		return err
	}
	mark := encode(map[string]any{"imageLayoutVersion": "1.0.0"})
	if err := put(archive, "oci-layout", int64(len(mark)), bytes.NewReader(mark)); err != nil {
		return err
	}
	return archive.Close()
}

func put(archive *tar.Writer, name string, length int64, content io.Reader) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: length}); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}

// encode writes JSON of values made here, which always can be.
func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}
