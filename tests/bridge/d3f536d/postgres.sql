CREATE TABLE public.audit (
    number bigint NOT NULL,
    digest text NOT NULL,
    at_ms bigint NOT NULL,
    user_id text,
    peer text,
    line text NOT NULL
);
CREATE TABLE public.call (
    room_id text NOT NULL,
    call_id text NOT NULL,
    local_user text NOT NULL,
    remote_user text NOT NULL,
    party_id text,
    event_id text NOT NULL,
    claimed_ms bigint NOT NULL,
    ended_ms bigint,
    end_reason text
);
CREATE TABLE public.call_trace (
    event_id text NOT NULL,
    room_id text NOT NULL,
    sender text NOT NULL,
    call_id text NOT NULL,
    sent_ms bigint NOT NULL,
    is_over smallint NOT NULL
);
CREATE TABLE public.certificate (
    user_id text NOT NULL,
    pem text NOT NULL
);
CREATE TABLE public.crypto_account (
    owner text NOT NULL,
    device_id text NOT NULL,
    pickle text NOT NULL,
    uploaded smallint NOT NULL,
    fallback_ms bigint NOT NULL,
    sync_token text
);
CREATE TABLE public.crypto_inbound (
    owner text NOT NULL,
    room_id text NOT NULL,
    session_id text NOT NULL,
    user_id text NOT NULL,
    pickle text NOT NULL,
    curve25519 text NOT NULL,
    ed25519 text NOT NULL,
    device_id text NOT NULL,
    received_ms bigint NOT NULL
);
CREATE TABLE public.crypto_index (
    owner text NOT NULL,
    room_id text NOT NULL,
    session_id text NOT NULL,
    "position" bigint NOT NULL,
    event_id text NOT NULL,
    used_ms bigint NOT NULL
);
CREATE TABLE public.crypto_olm (
    owner text NOT NULL,
    curve25519 text NOT NULL,
    session_id text NOT NULL,
    pickle text NOT NULL,
    used_ms bigint NOT NULL
);
CREATE TABLE public.crypto_outbound (
    owner text NOT NULL,
    room_id text NOT NULL,
    session_id text NOT NULL,
    pickle text NOT NULL,
    created_ms bigint NOT NULL,
    messages integer NOT NULL,
    shared text NOT NULL,
    withheld text NOT NULL
);
CREATE TABLE public.crypto_room (
    owner text NOT NULL,
    room_id text NOT NULL,
    rotate_messages integer NOT NULL,
    rotate_ms bigint NOT NULL
);
CREATE TABLE public.crypto_user (
    owner text NOT NULL,
    user_id text NOT NULL,
    keys_json text NOT NULL,
    queried_ms bigint NOT NULL,
    outdated smallint NOT NULL,
    pinned_master text,
    verified_master text
);
CREATE TABLE public.database_owner (
    key integer DEFAULT 0 NOT NULL,
    owner text NOT NULL
);
CREATE TABLE public.event (
    seq bigint NOT NULL,
    event_id text NOT NULL,
    room_id text NOT NULL,
    state smallint NOT NULL,
    reason text,
    payload text NOT NULL,
    received_ms bigint NOT NULL,
    settled_ms bigint
);
CREATE SEQUENCE public.event_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.event_seq_seq OWNED BY public.event.seq;
CREATE TABLE public.given_grant (
    number bigint NOT NULL,
    subject text NOT NULL,
    peer text NOT NULL,
    service text NOT NULL,
    giver text NOT NULL,
    since_ms bigint NOT NULL,
    until_ms bigint NOT NULL,
    reason text NOT NULL,
    once smallint NOT NULL,
    claimed_ms bigint,
    ended_ms bigint,
    ended_how text,
    ended_by text
);
CREATE SEQUENCE public.given_grant_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.given_grant_number_seq OWNED BY public.given_grant.number;
CREATE TABLE public.mxrtc_version (
    version integer NOT NULL
);
CREATE TABLE public.notice (
    user_id text NOT NULL,
    last_ms bigint NOT NULL
);
CREATE TABLE public.peer_room (
    peer text NOT NULL,
    room_id text NOT NULL,
    user_id text NOT NULL,
    last_active_ms bigint NOT NULL
);
CREATE TABLE public.policy_rule (
    room_id text NOT NULL,
    event_type text NOT NULL,
    state_key text NOT NULL,
    kind text NOT NULL,
    entity text NOT NULL
);
CREATE TABLE public.request (
    number bigint NOT NULL,
    user_id text NOT NULL,
    peer text NOT NULL,
    service text NOT NULL,
    for_s bigint NOT NULL,
    because text NOT NULL,
    room_id text NOT NULL,
    asked_ms bigint NOT NULL,
    state text NOT NULL,
    decided_by text,
    decided_ms bigint,
    notice_event text
);
CREATE SEQUENCE public.request_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.request_number_seq OWNED BY public.request.number;
ALTER TABLE ONLY public.event ALTER COLUMN seq SET DEFAULT nextval('public.event_seq_seq'::regclass);
ALTER TABLE ONLY public.given_grant ALTER COLUMN number SET DEFAULT nextval('public.given_grant_number_seq'::regclass);
ALTER TABLE ONLY public.request ALTER COLUMN number SET DEFAULT nextval('public.request_number_seq'::regclass);
INSERT INTO public.database_owner VALUES (0, 'mxrtc-bridge');
INSERT INTO public.mxrtc_version VALUES (7);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.call
    ADD CONSTRAINT call_event_id_key UNIQUE (event_id);
ALTER TABLE ONLY public.call
    ADD CONSTRAINT call_pkey PRIMARY KEY (room_id, call_id, local_user);
ALTER TABLE ONLY public.call_trace
    ADD CONSTRAINT call_trace_pkey PRIMARY KEY (event_id);
ALTER TABLE ONLY public.certificate
    ADD CONSTRAINT certificate_pkey PRIMARY KEY (user_id);
ALTER TABLE ONLY public.crypto_account
    ADD CONSTRAINT crypto_account_pkey PRIMARY KEY (owner);
ALTER TABLE ONLY public.crypto_inbound
    ADD CONSTRAINT crypto_inbound_pkey PRIMARY KEY (owner, room_id, session_id, user_id);
ALTER TABLE ONLY public.crypto_index
    ADD CONSTRAINT crypto_index_pkey PRIMARY KEY (owner, room_id, session_id, "position");
ALTER TABLE ONLY public.crypto_olm
    ADD CONSTRAINT crypto_olm_pkey PRIMARY KEY (owner, curve25519, session_id);
ALTER TABLE ONLY public.crypto_outbound
    ADD CONSTRAINT crypto_outbound_pkey PRIMARY KEY (owner, room_id);
ALTER TABLE ONLY public.crypto_room
    ADD CONSTRAINT crypto_room_pkey PRIMARY KEY (owner, room_id);
ALTER TABLE ONLY public.crypto_user
    ADD CONSTRAINT crypto_user_pkey PRIMARY KEY (owner, user_id);
ALTER TABLE ONLY public.database_owner
    ADD CONSTRAINT database_owner_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_event_id_key UNIQUE (event_id);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.given_grant
    ADD CONSTRAINT given_grant_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.mxrtc_version
    ADD CONSTRAINT mxrtc_version_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.notice
    ADD CONSTRAINT notice_pkey PRIMARY KEY (user_id);
ALTER TABLE ONLY public.peer_room
    ADD CONSTRAINT peer_room_pkey PRIMARY KEY (peer, room_id);
ALTER TABLE ONLY public.policy_rule
    ADD CONSTRAINT policy_rule_pkey PRIMARY KEY (room_id, event_type, state_key);
ALTER TABLE ONLY public.request
    ADD CONSTRAINT request_pkey PRIMARY KEY (number);
CREATE INDEX audit_peer ON public.audit USING btree (peer, number);
CREATE INDEX audit_time ON public.audit USING btree (at_ms);
CREATE INDEX audit_user ON public.audit USING btree (user_id, number);
CREATE INDEX call_ended ON public.call USING btree (ended_ms) WHERE (ended_ms IS NOT NULL);
CREATE INDEX call_open ON public.call USING btree (claimed_ms) WHERE (ended_ms IS NULL);
CREATE INDEX call_trace_call ON public.call_trace USING btree (room_id, call_id);
CREATE INDEX call_trace_sent ON public.call_trace USING btree (sent_ms);
CREATE INDEX crypto_inbound_received ON public.crypto_inbound USING btree (received_ms);
CREATE INDEX crypto_index_used ON public.crypto_index USING btree (used_ms);
CREATE INDEX event_settled ON public.event USING btree (state, seq) WHERE (state <> 0);
CREATE INDEX event_waiting ON public.event USING btree (room_id, seq) WHERE (state = 0);
CREATE INDEX given_grant_ended ON public.given_grant USING btree (ended_ms) WHERE (ended_ms IS NOT NULL);
CREATE INDEX given_grant_live ON public.given_grant USING btree (until_ms) WHERE (ended_ms IS NULL);
CREATE INDEX notice_last ON public.notice USING btree (last_ms);
CREATE INDEX peer_room_active ON public.peer_room USING btree (last_active_ms);
CREATE INDEX request_ended ON public.request USING btree (decided_ms) WHERE (state <> 'asked'::text);
CREATE INDEX request_notice ON public.request USING btree (notice_event) WHERE (notice_event IS NOT NULL);
CREATE UNIQUE INDEX request_open ON public.request USING btree (user_id, peer, service) WHERE (state = 'asked'::text);
CREATE INDEX request_user ON public.request USING btree (user_id, number);
