//! Local pods: namespaces, processes, probes, volumes, images, logs.
