"""meterd: usage events in, exact totals kept, signed webhooks out. One process, one folder.

The code map. A file imports only from files above it, tests/test_layout.py sees to it.

    built            version and commit, written by the build out of git's tags
    frozen           what the single binary needs, which is two processes
    domain/          pure rules: values in, values out
      instants         instants as text
      errors           names every failure an operator or caller may meet
      durations        durations as text
      plurals          counts with their nouns, as text
      periods          which half-open UTC period contains an instant, its key, when it ends
      operations       the seven operations
      hierarchy        which periods a period's totals belong to
      totals           one event type's totals: adding, merging, reading an operation
      event_ids        ids whose order is the order of storing
      malformed        where a body that is no JSON breaks
      event_fields     what each field of an event takes, and what is wrong with it
      events           decodes usage events, or says why there are none
      idempotency      what makes an event the repeat of another, and what becomes of it then
      admission        which events' times are taken
      receipts         an append as it was received: its events, ids and blocks
      digests          what totals are proved by
      javascript       JSON text as JavaScript writes it
      signatures       the two signature families of webhooks
      source_text      TOML and JSON text, and on which line a key stands
      sections         reads the tables of a configuration, naming what is wrong where
      addresses        the address to listen on
      credentials      API keys and their scopes
      alerts           which figures are watched, and at which values somebody is told
      endpoints        webhook endpoints
      echoes           what a receiver repeats of its URL, masked
      reachable        which addresses a webhook may be sent to
      config           one immutable Config
      advice           what of it was probably not meant
      aggregations     a period's totals as they are published
      outcomes         what came of an attempt to send
      deliveries       what becomes of an aggregation on its way to an endpoint
      probes           the message that tries an endpoint
      statistics       what came of an endpoint's attempts
      counts           what is counted for whoever watches meterd
      breaker          when an endpoint that fails is let alone
      standing         whether an endpoint may be sent to now
      endpoint_states  what is known of an endpoint beside its configuration
      voids            what is left when an event is taken back
      stored_events    events as the log has them
      proofs           the proof of an aggregation, checked alone
      changes          what one customer's decisions change on disk
      counting         what is counted in an hour while it goes on
      tally            one customer's events, counted and taken back
      account          what an event or a period's end changes for one customer
      usage            usage over windows, and in groups
      thresholds       when usage has reached a threshold, and what is told of it
    forgetting       what an engine promises to whoever sees to it that what is over goes
    ledger           what an engine promises
    watching         what an engine promises to whoever watches usage
    embedded/        the engine over LMDB, and its actors
      keys             key layout, whose byte order is reading order
      records          what stands in records
      transaction      one transaction of the store: tables and checked records
      attempt_log      every attempt, up to an age and a size
      batches          deliveries that go together
      lines            in which order deliveries are sent
      outbox           deliveries in the store: due, in the air, settled
      journal          totals, aggregations and each customer's index in the store
      upgrade          what an earlier format lacks
      file_system      refuses what is not of this machine
      data_folder      the folder around the store: made, held, its entries synced
      pages            LMDB's pages, checked without LMDB
      store            the LMDB environment: opening, reading, writing
      snapshot         the store as it stands in one moment, beside whoever has it open
      log              every event, in the order of receipt
      recovery         posts what a crash left unposted
      voids            which events of the log are void
      trail            what was published, one behind another
      queries          what the contract reads
      usage            reads totals over windows, and events in groups
      reached          looks for thresholds that were reached, and writes them with what is told
      delivery_queries  reads deliveries and what is known of endpoints
      replaying        has an endpoint sent what it was sent before, or never
      differences      what a check reports
      marks            how far the store says it has come
      dated            events of an hour that were received in another
      appended         events of one append, as a check gathers them
      hour_chains      an hour's digests, made again
      recount          an hour's events, counted again
      index_check      the log's indexes against the log
      totals_check     longer periods against shorter ones, customers against totals
      key_check        idempotency keys against the log
      void_check       what is void against the log
      log_shape        whether the log is as it is written
      span_check       a span of the log, and what is made of it
      span_workers     processes that check spans
      log_check        hours, indexes and keys against the log
      late_check       periods to be revised, against totals
      published_check  aggregations against what was published of totals
      made_check       a delivery, against what it must be made of
      reached_check    thresholds that were reached, and their deliveries
      trail_check      what was published, against what was before
      delivery_check   aggregations and deliveries, each against what it is made of
      outbox_check     where deliveries stand, against their states
      verification     checks a whole store
      proving          writes what proves an aggregation
      stored           what an account asks the store for
      mailbox          what wakes an actor, reply, round
      posted           whose totals were posted, of what is watched
      committer        the only writer
      aggregator       one customer
      registry         who is awake
      used_keys        idempotency keys until they are in the index
      forgetting       forgets idempotency keys whose time is over
      pruning          deletes events whose time is over
      sweeping         lets go of what indexes still name of them
      posting          when what is in the log reaches totals and indexes
      ahead            says when the ledger's time is ahead of the clock
      vital_signs      how the engine is doing
      closing          ends periods, revises late ones, takes snapshots
      delivery_desk    the part of the engine that gives deliveries out and has them sent again
      usage_desk       the part of the engine that reads usage
      void_desk        the part of the engine that takes events back
      pruning_desk     the part of the engine that deletes events
      threshold_desk   the part of the engine that tells of thresholds
      engine           the Ledger over all of these
    work/            what happens by itself
      clock            the only reader of the time of day
      closer           period ends
      forgetter        has keys forgotten and events deleted when their time is over
      threshold_watcher  tells when usage has reached a threshold
      loop_lag         how long everything waits for everything else
      delivery_log     what is logged of deliveries
      settling         deliveries settled together
      surroundings     what workers of endpoints have in common
      endpoint_worker  one endpoint's deliveries
      delivery         a worker for each endpoint
    edge/            HTTP in and out
      limits           every limit of the serving side
      peers            whom limits count as one, and how many wrong keys each may show
      request_ids      what a request is called, and when its answer says so
      problems         which status each outcome has
      certificates     what connections are encrypted with
      transports       a connection's bytes, with TLS or without
      spare_time       when costly work for one peer among several may begin
      access           who may do what
      request_log      what is logged of each request
      codings          bodies that were compressed
      readiness        whether the ledger may be asked yet
      ingest           the one way in for events
      plain_request    recognises a plain ingest request by its head
      plain_lane       the fast lane: serves plain ingest requests itself
      framing          the strict check of HTTP/1 requests
      http2_frames     counts what an HTTP/2 client sends that asks for nothing
      guarded_stream   a connection's bytes, checked, timed and bounded
      room             which connections there is room for
      turns            whose request is worked on
      hypercorn_lane   one connection in hypercorn's hands
      front_door       accepts connections and ends them
      documents        events and aggregations as the API shows them
      parameters       query parameters
      pages            long answers, a page at a time
      routes           what routes have in common
      holds            why a delivery is not sent, and what ends that
      metric_families  what is measured, as Prometheus names it
      metrics          gathers what is measured
      delivery_documents  deliveries, attempts and webhooks as the API shows them
      replay_request   what a replay asks for
      usage_request    what a request for usage asks for
      usage_documents  customers and usage as the API shows them
      usage_api        the routes of customers and their usage
      delivery_api     the routes of deliveries and webhooks
      void_api         the routes of one event
      openapi_parts    what operations of the API are described with
      openapi_ingest   how events come in, described
      openapi_events   events, described
      openapi_aggregations  aggregations and the trigger, described
      openapi_usage    customers and usage, described
      openapi_deliveries  deliveries, described
      openapi_webhooks  webhooks, described
      openapi_service  what meterd says of itself, described
      openapi          the API's document, for programs
      docs_template    how the page of it looks
      docs_page        the page of it, for people
      openapi_api      the routes of both
      api              Quart routes
      failures         what ended an attempt to deliver
      dialling         connects to judged addresses only
      answers          reads a receiver's answer, within limits
      keep_alive       httpx over connections of our own
      egress           webhooks out, each with its deadline
    keyfile          API keys in the data folder
    log_file         where log lines go
    copies           backups, what is restored from one, what was made compact
    source           where the configuration comes from
    log_repeats      which entries of the log are written, and which only counted
    log_thinning     leaves repeats out of the log, and tells how many
    log_lines        how the log is written
    trust            by which authorities others' certificates are judged
    settings         the configuration in force
    inherited        listening sockets that a service manager hands over
    service_manager  tells a service manager how meterd is doing
    machine          what a daemon uses of the machine it runs on
    daemon           builds the daemon and takes it down
    serving          runs it as a process: signals, reloads, exit codes
    client           speaks to a meterd that runs
    options          what the commands have in common
    listening        where another process listens
    tables           what commands print
    bars             how far a command is
    patience         asks a meterd again that cannot answer yet
    event_rows       events as rows of files
    row_forms        the forms of such files, and what their names say
    row_readers      rows out of JSON lines and CSV
    row_writers      rows into JSON lines and CSV
    parquet          rows out of and into Parquet
    importing        sends rows to a meterd that runs
    exporting        writes the events of a meterd that runs
    status_reading   how a meterd is doing, out of what it measures
    key_commands     the commands create, list, revoke of keys
    delivery_history   a delivery with its attempts, as commands print it
    delivery_commands  the commands list, show, retry, replay of deliveries
    webhook_commands   the commands list, test, enable, listen of webhooks
    proof_commands   prove an aggregation, and check a proof
    listing            lists of commands, a page at a time
    listing_commands   the commands events, aggregations
    usage_commands     the commands customers, usage
    void_command       the command void
    import_command   the command import
    export_command   the command export
    status_commands  the command status
    completion_command  the command completion
    upkeep           the commands verify, backup, restore, compact
    cli              the command meterd
"""

from meterd.built import VERSION

__version__ = VERSION
