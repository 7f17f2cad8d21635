"""The keys of LMCache 0.5.6 in three lists: honoured, ignored, refused.

Keys of its earlier versions that its published examples still show are here
too. ``docs/reference/configuration.md`` publishes the lists, and a test holds
the two together.
"""

from __future__ import annotations

HONOURED = frozenset(
    {
        "cache_policy",
        "chunk_size",
        "controller_pull_url",
        "controller_url",
        "enable_controller",
        "lmcache_instance_id",
        "lmcache_worker_heartbeat_time",
        "local_cpu",
        "local_cpu_use_hugepages",
        "local_disk",
        "max_local_cpu_size",
        "max_local_disk_size",
        "min_retrieve_tokens",
        "remote_serde",
        "remote_url",
        "save_decode_cache",
    }
)
"""Keys that mean here what they mean there; sizes are per instance, not per worker."""


def _because(reason: str, *keys: str) -> dict[str, str]:
    return dict.fromkeys(keys, reason)


IGNORED: dict[str, str] = {
    **_because(
        "one outgoing connection carries everything, and nothing listens in the serving process",
        "controller_reply_url",
        "lmcache_worker_heartbeat_delay_time",
        "lmcache_worker_ids",
        "lmcache_worker_port",
        "lmcache_worker_ports",
        "lmcache_worker_url",
        "distributed_url",
        "internal_api_server_enabled",
        "internal_api_server_host",
        "internal_api_server_include_index_list",
        "internal_api_server_port_start",
        "internal_api_server_socket_path_prefix",
        "mp_host",
        "mp_port",
    ),
    **_because(
        "memory is committed as it is used, from one region of max_local_cpu_size plus "
        "staging_size",
        "enable_lazy_memory_allocator",
        "lazy_memory_expand_trigger_ratio",
        "lazy_memory_initial_ratio",
        "lazy_memory_safe_size",
        "lazy_memory_step_ratio",
        "local_device",
        "reserve_local_cpu_size",
    ),
    **_because("the kernel places the region's pages", "numa_mode"),
    **_because("keys are always a SHA-256 chain", "pre_caching_hash_algorithm"),
    **_because("a tail is always stored at its true length", "save_unfull_chunk"),
    **_because(
        "loads and stores never wait for a tier in the serving loop",
        "async_loading",
        "enable_async_loading",
        "enable_scheduler_bypass_lookup",
        "lookup_server_worker_ids",
        "pipelined_backend",
        "use_gpu_connector_v3",
        "use_layerwise",
    ),
    **_because(
        "a request waits for a store promotion_timeout_seconds at most, and one call of a store "
        "takes storage_timeout_seconds at most",
        "blocking_timeout_secs",
        "lookup_timeout_ms",
    ),
    **_because(
        "a pin lasts until its own time is up or it is released",
        "pin_check_interval_sec",
        "pin_timeout_sec",
    ),
    **_because(
        "requests have no priorities here, and every one is cached",
        "priority_limit",
    ),
    **_because(
        "the keys of a plugin go into its own entry of storage, and request tags need no list",
        "extra_config",
    ),
    **_because(
        "counters are on the server's own /metrics and on the controller's",
        "chunk_statistics_auto_exit_target_unique_chunks",
        "chunk_statistics_auto_exit_timeout_hours",
        "chunk_statistics_auto_start_statistics",
        "chunk_statistics_strategy",
        "enable_chunk_statistics",
        "hit_miss_ratio",
    ),
    **_because(
        "chunks are announced where vLLM's --kv-events-config asks for it", "enable_kv_events"
    ),
    **_because(
        "a disk tier spreads its frames over all folders that local_disk names",
        "local_disk_path_sharding",
    ),
    **_because("the garbage collector is the host's own business", "py_enable_gc"),
    **_because("it is a detail of a feature that is refused", "app_id", "blend_check_layers"),
    **_because(
        "it is a detail of a feature that is refused",
        "blend_min_tokens",
        "blend_recompute_ratios",
        "blend_special_str",
        "blend_thresholds",
        "gds_backend",
        "gds_buffer_size",
        "gds_path_sharding",
        "hidden_state_layers",
        "hidden_states_retrieve_mode",
        "maru_pool_size",
        "max_hidden_state_cpu_size",
        "nixl_backends",
        "nixl_buffer_device",
        "nixl_buffer_size",
        "nixl_enable_gc",
        "nixl_peer_alloc_port",
        "nixl_peer_host",
        "nixl_peer_init_port",
        "nixl_peer_port",
        "nixl_proxy_host",
        "nixl_proxy_port",
        "nixl_receiver_host",
        "nixl_receiver_port",
        "p2p_host",
        "p2p_init_ports",
        "p2p_lookup_ports",
        "pd_allocation_timeout_sec",
        "pd_backend_mode",
        "pd_bidirectional",
        "pd_buffer_device",
        "pd_buffer_size",
        "pd_condition_poll_interval_sec",
        "pd_max_prefill_len",
        "pd_peer_alloc_port",
        "pd_peer_host",
        "pd_peer_init_port",
        "pd_peer_query_port",
        "pd_proxy_host",
        "pd_proxy_port",
        "pd_shutdown_timeout_sec",
        "pd_skip_proxy_notification",
        "script_allowed_imports",
        "transfer_channel",
        "use_gds",
    ),
}
"""Keys that change nothing here, each with the reason; setting one is a notice."""

REFUSED: dict[str, str] = {
    **_because(
        "blending changes the model's output, and a hit here never does; leave it out",
        "enable_blending",
    ),
    **_because(
        "engines exchange chunks through a shared tier of storage, not with each other; leave it "
        "out and name a shared backend",
        "enable_p2p",
    ),
    **_because(
        "disaggregated prefill is not what this connector does; leave it out and use the server's "
        "own connector for it",
        "enable_nixl",
        "enable_pd",
        "enable_xpyd",
        "nixl_role",
        "pd_role",
    ),
    **_because(
        "storage that bypasses host memory is outside the contract of a backend; leave it out and "
        "name a backend in storage",
        "gds_path",
        "maru_path",
    ),
    **_because(
        "only KV pages are cached; leave it out",
        "enable_hidden_state_cache",
    ),
    **_because(
        "code is never loaded by a path in a configuration; install the plugin with pip and name "
        "its backend in storage",
        "external_backends",
        "plugin_locations",
        "remote_storage_plugins",
        "runtime_plugin_locations",
        "storage_plugins",
    ),
    **_because(
        "a script sent over the network is never run; leave it out",
        "run_script_api_enabled",
    ),
    **_because(
        "a configuration is never fetched from the network, and the environment is never sent "
        "there; name a file in LMCACHE_CONFIG_FILE",
        "remote_config_url",
    ),
    **_because(
        "look-ups are answered by the engine's own index; leave it out",
        "external_lookup_client",
    ),
    **_because(
        "every tier is read and written in the order of storage; leave it out and list the tiers "
        "that are wanted there",
        "retrieve_locations",
        "store_location",
    ),
    **_because(
        "a store is named once, in remote_url or storage; leave it out",
        "audit_actual_remote_url",
    ),
}
"""Keys whose wish cannot be met in silence, each with the reason and what to do."""


def is_off(value: object) -> bool:
    """Whether a value of such a key asks for nothing."""
    return value is None or value is False or value in (0, "", [], {}) or _says_no(value)


def _says_no(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in {
        "false",
        "no",
        "off",
        "0",
        "none",
        "null",
    }
